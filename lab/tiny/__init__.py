"""Tiny real diffusion models: how they are trained, stored, asked and measured.

What they draw comes from a `pictures.Source`: handwritten digits (`digits`) or emoji (`emoji`).
"""
