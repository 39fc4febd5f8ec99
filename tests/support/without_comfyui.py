"""What of the pack needs no ComfyUI: the arithmetic, and the playground."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType

from comfyui.install import ROOT

_PACKAGE = "pack_without_comfyui"


@cache
def package() -> ModuleType:
    """A package that has the pack's folder and runs nothing of it, since the pack's start does."""
    spec = ModuleSpec(_PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    return sys.modules[_PACKAGE]


def module_without_comfyui(name: str) -> ModuleType:
    """A module of the pack, by its name below the pack."""
    return importlib.import_module(f"{package().__name__}.{name}")
