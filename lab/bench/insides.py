"""Where in the pack lies what the benchmarks need beside its nodes."""

from __future__ import annotations

import importlib
from types import ModuleType

from comfyui.install import comfyui_path
from comfyui.library import loaded_pack

PROBE = "guiders.record.probe"
SCHEDULES = "guiders.push.schedules"
SHAPES = "guiders.push.shapes"
WEIGHT_SWAP = "guiders.run.weight_swap"


def module(name: str) -> ModuleType:
    """A module of the pack, as ComfyUI has loaded it."""
    return importlib.import_module(f"{loaded_pack(comfyui_path()).__name__}.{name}")
