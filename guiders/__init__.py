"""What happens at every step: formulas, and the one place where ComfyUI's sampler is entered.

``formulas``, ``noise``, ``steps``, ``trajectory``, ``schedules``, ``shapes``, ``probe`` and
``live_text`` know torch only; the others know ComfyUI. Nothing here knows the nodes.
"""
