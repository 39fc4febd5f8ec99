"""A small kit for drawings that nodes show.

ComfyUI brings Pillow, and nothing that plots.

    style     colours, and the languages that words are there in
    fonts     letters of Latin, Greek, Cyrillic and Chinese: how wide they are, where lines break
    canvas    lines, areas, dots, arrows, pictures and words, in pixels
    axes      a plot area with numbers at its edges
    sheet     pictures side by side, with words above and beside them
"""
