"""The templates on real checkpoints: with the push and without, on the same seeds.

    COMFYUI_PATH=… make real
    COMFYUI_PATH=… make real ARGS="--only 'sd15*' --seeds 5"
    COMFYUI_PATH=… make real ARGS="--python ~/ComfyUI/.venv/bin/python -- --lowvram"

    __main__        the command line: one server, one template after the other
    templates       what a template needs, its prompt with the push and without
    measuring       runs a template, and what came of it
    report          the sheet, the table
    stopwatch_pack  what measures inside of ComfyUI
    checkpoint      a full-size SD1.5 of random weights, to try all of it without a download

What comes of it is in build/real/: sheet.jpg, report.md, report.json, and a folder of images for
each template.
"""
