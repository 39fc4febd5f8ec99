"""The arithmetic alone. These tests need torch and pytest, and no ComfyUI: `make test-push`."""

import pytest

from comfyui.install import ROOT
from support.without_comfyui import module_without_comfyui, package


@pytest.fixture(scope="session")
def pack():
    """The pack, of which nothing is loaded but the arithmetic."""
    for file in (ROOT / "guiders" / "push").glob("*.py"):
        module_without_comfyui(f"guiders.push.{file.stem}")
    return package()
