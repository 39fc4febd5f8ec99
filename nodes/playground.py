"""Shelf "bad version/playground": guidance in a world of two dimensions."""

from __future__ import annotations

from comfy_api.latest import io

NODES: list[type[io.ComfyNode]] = []
