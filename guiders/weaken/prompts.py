"""The same prompt with something taken away, as a conditioning for the weak model."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..errors import bad_input
from ..push.call import Conditioning
from . import degradations
from .content import Content

Mode = Literal["drop", "noise", "blur"]

# Chunks of tokens in which text encoders of the CLIP kind read a prompt.
_CHUNK = 77
# As many words are told of as an artist reads.
_TOLD = 20


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
    _require_change(node, mode, conditioning, weaker)
    return weaker


def without_content(
    node: str,
    conditioning: Conditioning,
    empty: Conditioning | None,
    content: Content | None,
    amount: float,
    seed: int,
) -> tuple[Conditioning, str]:
    """Put the empty prompt's tokens where a prompt has its words.

    The weak prompt of condition-degradation guidance (Han et al. 2026, arXiv 2603.10780): start,
    end, padding, template and the pooled output stay the prompt's, and so does all else that an
    entry carries. Rows that the empty prompt has not are taken from the same place of its chunk,
    in prompts of the CLIP kind, and from its last row otherwise.

    Args:
        node: display name of the artist's node, with the inputs 'conditioning', 'empty', 'text'
            and 'amount'.
        conditioning: embeddings ``[batch, tokens, width]`` with their dictionaries.
        empty: an empty prompt of the same text encoder; its first entry counts.
        content: which tokens are words; None for all of them.
        amount: share of the words that is replaced, above 0, at most 1; at least one word.
        seed: of the choice of words where that is not all of them.

    Returns:
        The weak prompt, and what was replaced, in words for the artist.

    Raises:
        GuidanceError: for what is no text embedding, an empty prompt of another encoder, a
            conditioning of which no entry is what the encoder makes of the text, and one that
            stays the same.
    """
    _check_amount(node, "content", amount)
    filling = empty_embedding(node, empty)
    for embedding, _ in conditioning:
        _require_embedding(node, "conditioning", embedding)
        if embedding.shape[-1] != filling.shape[-1]:
            raise bad_input(
                node,
                "empty",
                f"an embedding of the width {filling.shape[-1]}",
                "an empty prompt from the text encoder of 'conditioning', whose embedding has the "
                f"width {embedding.shape[-1]}",
            )
    known = [content is None or content.is_of(embedding) for embedding, _ in conditioning]
    if conditioning and not any(known):
        raise bad_input(
            node,
            "text",
            "a text from which the connected CLIP makes another embedding than 'conditioning' has",
            "the very text that was encoded, and the CLIP that has encoded it",
        )
    weaker = []
    for (embedding, extras), replaced in zip(conditioning, known, strict=True):
        if replaced:
            rows, sources = _chosen(content, embedding, filling, amount, seed)
            embedding = embedding.clone()
            embedding[:, rows] = filling[:, sources].to(embedding)
        weaker.append([embedding, dict(extras)])
    _require_change(node, "content", conditioning, weaker)
    return weaker, _told(conditioning, known, content, filling, amount, seed)


def empty_embedding(node: str, empty: Conditioning | None) -> Tensor:
    """The embedding ``[1, tokens, width]`` of an empty prompt; ``GuidanceError`` if it is none."""
    expected = "an empty prompt, encoded by the text encoder of 'conditioning'"
    if not empty:
        raise bad_input(node, "empty", "nothing, in mode 'content'", expected)
    embedding = empty[0][0]
    _require_embedding(node, "empty", embedding)
    if 0 in embedding.shape:
        raise bad_input(node, "empty", f"an embedding of the shape {[*embedding.shape]}", expected)
    return embedding[:1]


def _chosen(
    content: Content | None, embedding: Tensor, filling: Tensor, amount: float, seed: int
) -> tuple[list[int], list[int]]:
    """Which rows are replaced, in order, and by which of the empty prompt's."""
    there, length = filling.shape[1], embedding.shape[1]
    if content is not None:
        rows, sources = content.rows, content.sources
    elif there == _CHUNK and length % _CHUNK == 0:
        rows, sources = range(length), [row % _CHUNK for row in range(length)]
    else:
        rows, sources = range(length), [min(row, there - 1) for row in range(length)]
    count = min(len(rows), max(1, round(amount * len(rows))))
    order = torch.randperm(len(rows), generator=Generator().manual_seed(seed))[:count]
    chosen = sorted(order.tolist())
    return [rows[i] for i in chosen], [sources[i] for i in chosen]


def _told(
    conditioning: Conditioning,
    known: list[bool],
    content: Content | None,
    filling: Tensor,
    amount: float,
    seed: int,
) -> str:
    """What was replaced, in words for the artist."""
    embedding = conditioning[known.index(True)][0]
    rows, _ = _chosen(content, embedding, filling, amount, seed)
    told = f"replaced {len(rows)} of {embedding.shape[1]} tokens"
    if content is None:
        return f"{told}; without clip every token counts as a word"
    word_at = dict(zip(content.rows, content.words, strict=True))
    # Several tokenizers may have read the same word, and some have tokens for a space.
    words = [f'"{word}"' for word in dict.fromkeys(word_at[row] for row in rows) if word]
    if len(words) > _TOLD:
        words[_TOLD:] = ["…"]
    others = known.count(False)
    rest = f"; {others} of {len(known)} prompts are of another text and stay" if others else ""
    return f"{told}: {', '.join(words)}{rest}"


def _require_change(node: str, mode: str, old: Conditioning, new: Conditioning) -> None:
    if all(_same_tensors(*pair) for pair in zip(old, new, strict=True)):
        raise bad_input(
            node,
            "conditioning",
            f"a prompt from which '{mode}' takes nothing away",
            "a prompt from a text encoder, with more than one token in it",
        )


def _require_embedding(node: str, name: str, embedding: Any) -> None:
    if not isinstance(embedding, Tensor) or embedding.ndim != 3:
        came = f"shape {list(embedding.shape)}" if isinstance(embedding, Tensor) else "nothing"
        raise bad_input(
            node,
            name,
            f"a conditioning with {came} in the place of its text embedding",
            "text embeddings of the shape [batch, tokens, width], as text encoders make them",
        )


def _weaken_entry(node: str, entry: list[Any], mode: Mode, amount: float, seed: int) -> list[Any]:
    embedding, extras = entry[0], dict(entry[1])
    _require_embedding(node, "conditioning", embedding)
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


def _check_amount(node: str, mode: str, amount: float) -> None:
    if not math.isfinite(amount):
        raise bad_input(node, "amount", str(amount), "a finite number")
    if amount == 0:
        raise bad_input(node, "amount", "0, which changes nothing", "more than 0")
    highest = math.inf if mode == "noise" else 1.0
    if not 0 < amount <= highest:
        expected = "more than 0" if mode == "noise" else "more than 0 and at most 1"
        raise bad_input(node, "amount", f"{amount:g}", expected)
