"""Start ComfyUI as a library, on the CPU, for training and measuring."""

import sys

from comfyui.install import comfyui_path


def start_comfyui() -> None:
    """Make `import comfy` work; a second call does nothing.

    ComfyUI reads its options from `sys.argv` once, when `comfy.cli_args` is first imported, and
    needs its own top-level package `utils` to be found before any other of that name.
    """
    if "comfy.cli_args" in sys.modules:
        return
    sys.path.insert(0, str(comfyui_path()))
    sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils  # noqa: F401
