"""Tiny real diffusion models of small colour pictures, for the demo and the benchmarks.

Everything here starts from OpenMoji's glyphs. The commands:

    make models    # emoji.train
    make card      # emoji.evaluate
"""
