"""The same prompt with something taken away, as a conditioning for the weak model."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..errors import bad_input
from ..push.call import Conditioning
from . import degradations

Mode = Literal["drop", "noise", "blur"]


def weaken_prompt(
    node: str, conditioning: Conditioning, mode: Mode, amount: float, seed: int
) -> Conditioning:
    """Take something away from what a text encoder has made of a prompt.

    ======= ================================ =====================================================
    mode    embedding                        pooled output
    ======= ================================ =====================================================
    drop    a share of the tokens            stays: it is one vector and has no tokens to drop
    noise   relative to its own spread       likewise
    blur    towards the mean of its tokens   by the same share towards 0, which SDXL and SD3 were
                                             trained to take for "no prompt"
    ======= ================================ =====================================================

    All else that an entry carries (control nets, masks, areas, hooks, time ranges, further
    tensors) is handed on as it is. Entries with the same number of tokens lose the same ones, so
    that a prompt split over time ranges is the same weak prompt all along.

    Args:
        node: display name of the artist's node, with the inputs 'conditioning' and 'amount'.
        conditioning: embeddings ``[batch, tokens, width]`` with their dictionaries.
        mode: what is taken away.
        amount: above 0; for ``drop`` and ``blur`` at most 1.
        seed: of the choice of tokens and of the noise.

    Raises:
        GuidanceError: for a conditioning that is no text embedding or that stays the same, and for
            an amount out of range.
    """
    _check_amount(node, mode, amount)
    weaker = [_weaken_entry(node, entry, mode, amount, seed) for entry in conditioning]
    if all(_same_tensors(old, new) for old, new in zip(conditioning, weaker, strict=True)):
        raise bad_input(
            node,
            "conditioning",
            f"a prompt from which '{mode}' takes nothing away",
            "a prompt from a text encoder, with more than one token in it",
        )
    return weaker


def _weaken_entry(node: str, entry: list[Any], mode: Mode, amount: float, seed: int) -> list[Any]:
    embedding, extras = entry[0], dict(entry[1])
    if not isinstance(embedding, Tensor) or embedding.ndim != 3:
        came = f"shape {list(embedding.shape)}" if isinstance(embedding, Tensor) else "nothing"
        raise bad_input(
            node,
            "conditioning",
            f"a conditioning with {came} in the place of its text embedding",
            "text embeddings of the shape [batch, tokens, width], as text encoders make them",
        )
    generator = Generator().manual_seed(seed)
    pooled = extras.get("pooled_output")
    if mode == "drop":
        embedding = degradations.drop_tokens(embedding, amount, generator)
    elif mode == "noise":
        embedding = degradations.add_prompt_noise(embedding, amount, generator)
        if pooled is not None:
            extras["pooled_output"] = degradations.add_prompt_noise(pooled, amount, generator)
    else:
        embedding = degradations.blur_prompt(embedding, amount)
        if pooled is not None:
            extras["pooled_output"] = pooled * (1.0 - amount)
    return [embedding, extras]


def _same_tensors(old: list[Any], new: list[Any]) -> bool:
    pooled = (old[1].get("pooled_output"), new[1].get("pooled_output"))
    return torch.equal(old[0], new[0]) and (pooled[0] is pooled[1] or torch.equal(*pooled))


def _check_amount(node: str, mode: Mode, amount: float) -> None:
    if not math.isfinite(amount):
        raise bad_input(node, "amount", str(amount), "a finite number")
    if amount == 0:
        raise bad_input(node, "amount", "0, which changes nothing", "more than 0")
    highest = math.inf if mode == "noise" else 1.0
    if not 0 < amount <= highest:
        expected = "more than 0" if mode == "noise" else "more than 0 and at most 1"
        raise bad_input(node, "amount", f"{amount:g}", expected)
