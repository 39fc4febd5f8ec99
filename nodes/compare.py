"""Shelf "bad version/compare": many settings in one run, and their pictures side by side."""

from __future__ import annotations

from comfy_api.latest import io

NODES: list[type[io.ComfyNode]] = []
