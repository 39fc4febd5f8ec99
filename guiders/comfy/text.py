"""What a text encoder makes of a prompt: tokens, rows of an embedding, and words again."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfy.sd import CLIP
    from torch import Tensor

# By the name of each tokenizer: chunks of tokens, of which each is a number (or the vector of a
# textual inversion) and its weight.
Tokens = dict[str, list[list[tuple[Any, ...]]]]


def tokenize(clip: CLIP, text: str) -> Tokens:
    """Take a prompt apart as core's node for encoding it does."""
    return clip.tokenize(text)


def encode(clip: CLIP, tokens: Tokens) -> list[Tensor]:
    """Embeddings ``[1, rows, width]``: one, or one for each step of a LoRA's schedule."""
    return [embedding for embedding, _ in clip.encode_from_tokens_scheduled(tokens)]


def word_of(clip: CLIP, name: str, token: Any) -> str:
    """What a token says, for an artist to read.

    Args:
        clip: that has made it.
        name: of its tokenizer.
        token: a number, or the vector of a textual inversion.
    """
    if not isinstance(token, Integral):
        return "embedding"
    # Of several tokenizers, each is kept under its name, those of CLIP under a longer one.
    own = [getattr(clip.tokenizer, at, None) for at in (name, f"clip_{name}")]
    tokenizer = next((at for at in own if at is not None), clip.tokenizer)
    # What a vocabulary keeps of a word in another alphabet is bytes in disguise.
    decode = getattr(getattr(tokenizer, "tokenizer", None), "decode", None)
    if decode is not None:
        return decode([int(token)]).strip()
    ((_, word),) = tokenizer.untokenize([(int(token), 1.0)])
    return str(word).strip("▁ ")
