"""The command line of what makes tiny models, part by part."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from comfyui.library import ASSETS

from .comfyui import start_comfyui

# Makes files in a folder, from others that are there.
Part = Callable[[Path], None]


def make(
    description: str, parts: Mapping[str, Part], arguments: Sequence[str] | None = None
) -> None:
    """Make all parts in their order, or one alone.

    Args:
        description: of the command.
        parts: by name; each may need what those before it have made.
        arguments: of the command, if not those that it was called with.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the files")
    parser.add_argument("--only", choices=parts, help="this part alone, from the files there are")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    # Parts import ComfyUI, which must have been started before.
    start_comfyui()
    for name in [options.only] if options.only else parts:
        parts[name](options.out)
