"""Where in the pack lies what the benchmarks need beside its nodes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType

from comfyui.install import ROOT, comfyui_path
from comfyui.library import loaded_pack

PROBE = "guiders.record.probe"
SCHEDULES = "guiders.push.schedules"
SHAPES = "guiders.push.shapes"
WEIGHT_SWAP = "guiders.run.weight_swap"


def module(name: str) -> ModuleType:
    """A module of the pack, as ComfyUI has loaded it."""
    return importlib.import_module(f"{loaded_pack(comfyui_path()).__name__}.{name}")


@cache
def module_without_comfyui(name: str) -> ModuleType:
    """A module of the pack that needs no ComfyUI.

    The pack's own start does need it. So the module is taken from a package that has the pack's
    folder and runs nothing of it.
    """
    package = "pack_without_comfyui"
    if package not in sys.modules:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(ROOT)]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{name}")
