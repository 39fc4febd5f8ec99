"""A world of two dimensions, in which guidance can be seen and measured.

``distribution`` is what there is to be drawn, ``denoiser`` and ``training`` the small models of it,
``sampling`` draws points under guidance with the schedules and shapes of ``guiders``, ``measures``
says how good they are. Nothing here knows ComfyUI or the nodes.
"""
