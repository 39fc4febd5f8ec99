"""Tiny real diffusion models of small colour images, for the demo and the benchmarks.

Everything here starts from OpenMoji's glyphs. The commands:

    make models    # emoji.train
    make card      # emoji.evaluate
"""

# For whatever shows what these models draw, as the license asks.
CREDIT = "Emoji drawn by models trained on OpenMoji (openmoji.org), CC BY-SA 4.0"
