"""The arithmetic of guidance. Knows torch, and nothing of ComfyUI."""
