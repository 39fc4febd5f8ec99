"""What happens at every step: formulas, and the one place where ComfyUI's sampler is entered.

``formulas`` knows torch only; the other modules know ComfyUI. Nothing here knows the nodes.
"""
