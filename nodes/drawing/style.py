"""How all drawings of the pack look."""

from __future__ import annotations

# Of ComfyUI's dark theme.
PAPER = "#1f1f23"
PANEL = "#28282e"  # An area on the paper, slightly lighter.
GRID = "#3a3a42"
TEXT = "#d8d8de"
MUTED = "#9a9aa6"  # Secondary words.

# Of a drawing with one curve: the curve, and its range.
LINE, BAND = "#f5b041", "#5a4a2c"

# They differ in lightness too, so that colour-blind people can tell them apart.
SERIES = (LINE, "#56b4e9", "#e8705a", "#3fc79a", "#d79bd0", "#f2e85c")

# Pillow does not smooth lines, so everything is drawn so many times larger.
OVERSAMPLING = 2

# Name of each language on the page, and the folder of its translations.
LANGUAGES = {"English": "en", "中文": "zh"}
