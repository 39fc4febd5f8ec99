"""Shelf "bad version/probe": what guidance does, recorded, drawn and saved."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "bad version/probe"

ProbeType = io.Custom("GUIDANCE_PROBE")

NODES: list[type[io.ComfyNode]] = []
