"""Bad-Version Guider: guidance for ComfyUI as a push away from a bad version."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import compare, guidance, playground, probe, pushes, recipe, schedules, shapes, weaken

WEB_DIRECTORY = "./web"

NODES: list[type[io.ComfyNode]] = [
    *guidance.NODES,
    *pushes.NODES,
    *recipe.NODES,
    *probe.NODES,
    *compare.NODES,
    *playground.NODES,
    *schedules.NODES,
    *shapes.NODES,
    *weaken.NODES,
]

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


class BadVersionExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES


async def comfy_entrypoint() -> BadVersionExtension:
    """What ComfyUI calls on loading this folder."""
    return BadVersionExtension()
