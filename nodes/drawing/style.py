"""How all drawings of the pack look."""

from __future__ import annotations

# Of ComfyUI's dark theme.
PAPER = "#1f1f23"
PANEL = "#28282e"  # An area on the paper, slightly lighter.
GRID = "#3a3a42"
TEXT = "#d8d8de"
MUTED = "#9a9aa6"  # Words that come second.

# Of a drawing with one curve: the curve, and the area where it may run.
LINE, BAND = "#f5b041", "#5a4a2c"

# Colour-blind eyes tell them apart too, since they differ in lightness as well.
SERIES = (LINE, "#56b4e9", "#e8705a", "#3fc79a", "#d79bd0", "#f2e85c")

# Pillow does not smooth lines, so all is drawn so many times as large.
OVERSAMPLING = 2

# What the page calls a language, and the folder of its translations.
LANGUAGES = {"English": "en", "中文": "zh"}
