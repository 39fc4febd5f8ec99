"""ComfyUI as a library: the nodes are there, and a pack that cannot be loaded is an error."""

import sys

import pytest

from comfyui import library
from comfyui.install import ROOT, comfyui_path


def test_nodes_are_loaded_as_comfyui_does(comfy_nodes, pack):
    assert {"KSampler", "DigitConditioning"} <= comfy_nodes.keys()
    link = library.pack_folder(comfyui_path())
    assert link.is_symlink() or link == ROOT
    assert pack.__file__ == str(link / "__init__.py")


def test_comfyui_runs_on_the_cpu_and_in_its_own_folders(comfy_nodes):
    import comfy.model_management
    import folder_paths

    assert comfy.model_management.get_torch_device().type == "cpu"
    assert not folder_paths.get_output_directory().startswith(str(comfyui_path()))
    assert str(library.ASSETS) in folder_paths.get_folder_paths("diffusion_models")


def test_repository_root_is_imported_by_comfyui_only(pack):
    root = str(ROOT / "__init__.py")
    names = {n for n, m in sys.modules.items() if getattr(m, "__file__", None) == root}
    assert names <= {pack.__name__}


def test_pack_that_cannot_be_loaded_is_an_error(comfy_nodes, tmp_path):
    (tmp_path / "__init__.py").write_text("import there_is_no_such_module\n")
    with pytest.raises(library.LoadError, match="No module named 'there_is_no_such_module'"):
        library.load_pack(sys.modules["nodes"], tmp_path)
