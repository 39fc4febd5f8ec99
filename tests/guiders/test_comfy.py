"""The door to ComfyUI: what happens where a release has renamed something."""

import os
import subprocess
import sys

import comfy.model_patcher
import comfy.samplers
import pytest

from comfyui.install import ROOT, comfyui_path

NAMES = {
    "module": "comfy.context_windows",
    "function": "comfy.samplers.calc_cond_batch",
    "method": "comfy.samplers.CFGGuider.inner_sample",
    "constant": "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",
    "on patchers": "comfy.model_patcher.ModelPatcher.backup",
}

# Loads the pack as ComfyUI does, where a name is missing, and then asks ComfyUI for a node.
WITHOUT = """
import asyncio, importlib, logging, sys, tempfile
from pathlib import Path
from comfyui import install, library

library.prepare(install.comfyui_path(), Path(tempfile.mkdtemp()))
nodes = importlib.import_module("nodes")
module, _, name = sys.argv[1].rpartition(".")
delattr(sys.modules[module], name)
folder = library.pack_folder(install.comfyui_path())
print("loaded:", asyncio.run(nodes.load_custom_node(str(folder))))
print("KSampler:", "KSampler" in nodes.NODE_CLASS_MAPPINGS)
"""


def without(name, monkeypatch):
    """Take one name away from ComfyUI."""
    if name == "comfy.context_windows":
        monkeypatch.setitem(sys.modules, name, None)
        return
    if name.endswith("ModelPatcher.backup"):
        # It is made anew by each patcher.
        init = comfy.model_patcher.ModelPatcher.__init__

        def renamed(self, *args, **kwargs):
            init(self, *args, **kwargs)
            self.saved = self.__dict__.pop("backup")

        monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "__init__", renamed)
        return
    owner, _, attribute = name.rpartition(".")
    monkeypatch.delattr(f"{owner}.{attribute}")


def test_nothing_is_missing_here(pack):
    assert pack.guiders.comfy.missing_names() == []


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_missing_is_named(kind, pack, monkeypatch):
    without(NAMES[kind], monkeypatch)
    assert pack.guiders.comfy.missing_names() == [NAMES[kind]]
    with pytest.raises(ImportError, match=rf"ComfyUI [\d.]+ has no {NAMES[kind]}\. "):
        pack.guiders.comfy.require_names()


# Asked for in a run, and imported by name.
@pytest.mark.parametrize("name", [NAMES["function"], "comfy.sampler_helpers.convert_cond"])
def test_comfyui_goes_on_without_the_pack(name):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, name],
        cwd=ROOT / "tests",
        env={**os.environ, "COMFYUI_PATH": str(comfyui_path())},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "loaded: False" in result.stdout and "KSampler: True" in result.stdout
    assert f"has no {name}. " in result.stderr
