"""What happens at every step: formulas, and the one place where ComfyUI's sampler is entered.

``formulas`` knows torch only. ``compatibility``, ``same_base`` and ``sampling`` know ComfyUI.
Nothing here knows the nodes.
"""
