"""How the pack speaks to an artist when an input cannot be used."""

from __future__ import annotations


class GuidanceError(ValueError):
    """An input that guidance cannot be made from; its text is meant for the artist."""

    # ComfyUI shows this beside the text, and calls the modules of a pack by their path.
    __module__ = "bad_version_guider"


def bad_input(node: str, name: str, came: str, expected: str) -> GuidanceError:
    """Return the error for one input, ready to be raised.

    Args:
        node: display name of the node that has the input.
        name: name of the input, as the node shows it.
        came: what was connected or typed.
        expected: what would have worked, and how to get there.
    """
    return GuidanceError(f"{node}, input '{name}': got {came}. Expected {expected}.")
