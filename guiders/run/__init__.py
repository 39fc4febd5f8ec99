"""Guidance during one sampling run of ComfyUI."""
