"""A small kit for the drawings that nodes show.

ComfyUI brings Pillow, and nothing that plots.

    style     colours, and the languages of the words
    fonts     letters of Latin, Greek, Cyrillic and Chinese: how wide they are, where lines break
    canvas    lines, areas, dots, arrows, images and words, in pixels
    axes      a plot area with numbers at its edges
    sheet     images side by side, with words above and beside them
"""
