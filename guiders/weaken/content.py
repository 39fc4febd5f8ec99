"""Which rows of a text embedding are the words of its prompt.

A conditioning does not say it. Its text encoder does: the tokens of the text, beside those of an
empty one, tell words from start, end, padding and the template around them; another word in their
place tells which rows are theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import comfy
from ..errors import GuidanceError, bad_input

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import CLIP, Tokens

# Of a row's length: what rounding does to it between two runs of an encoder, and what a run does
# to it where another word is read.
_SAME_ROW = 0.05
_READ = 1e-3
# A word in the vocabulary of every encoder, and another one.
_WORD, _OTHER_WORD = 1000, 1001


@dataclass(frozen=True)
class Content:
    """The words of a prompt in its embedding.

    Attributes:
        rows: of the embedding, in order.
        sources: of each, the row of the empty prompt's embedding at the same place.
        words: of each, what it says.
        embeddings: ``[1, rows, width]``, what the encoder makes of the prompt.
    """

    rows: tuple[int, ...]
    sources: tuple[int, ...]
    words: tuple[str, ...]
    embeddings: tuple[Tensor, ...]

    def is_of(self, embedding: Tensor) -> bool:
        """Whether an embedding ``[batch, rows, width]`` is that of the prompt."""
        return any(
            embedding.shape[1:] == known.shape[1:]
            and not _other_rows(embedding.to(known), known, _SAME_ROW)
            for known in self.embeddings
        )


@dataclass(frozen=True)
class _Part:
    """What one tokenizer has made of the text, and of no text.

    Attributes:
        name: of the tokenizer.
        chunks: of the text; each is encoded by itself.
        frame: the one chunk of the empty text.
        spans: of each chunk, where its words are.
    """

    name: str
    chunks: list[list[Any]]
    frame: list[Any]
    spans: list[tuple[int, int]]

    @property
    def length(self) -> int:
        return sum(map(len, self.chunks))


def find_content(node: str, clip: CLIP, text: str, empty_rows: int) -> Content:
    """Find the rows of a prompt's embedding that are its words.

    Any text encoder of ComfyUI will do: one tokenizer or several, whose rows come one after the
    other, side by side, or not at all in the embedding, with or without a template of which the
    front is cut off.

    Args:
        node: display name of the artist's node, with the inputs 'clip', 'text' and 'empty'.
        clip: the text encoder.
        text: as it was encoded.
        empty_rows: how many rows the empty prompt's embedding has.

    Raises:
        GuidanceError: where the encoder does not show which rows the words are, and for an empty
            prompt that has another number of rows than one of this encoder.
    """
    tokens, empty = comfy.tokenize(clip, text), comfy.tokenize(clip, "")
    embeddings = tuple(comfy.encode(clip, tokens))
    if embeddings[0].ndim != 3:
        raise _cannot_tell(node, f"it has {embeddings[0].ndim} dimensions")
    parts = [_part(name, tokens[name], empty[name][0]) for name in tokens if name in empty]
    read = {part.name: _rows_read(node, clip, tokens, part, embeddings[0]) for part in parts}
    groups = _side_by_side([part for part in parts if read[part.name]], read)
    rows = embeddings[0].shape[1]
    if not groups:
        return Content((), (), (), embeddings)

    lengths = [min(part.length for part in group) for group in groups]
    cut = sum(lengths) - rows
    in_template = min(part.spans[0][0] for part in groups[0])
    if cut and not (len(groups) == 1 and 0 < cut <= in_template):
        raise _cannot_tell(node, f"{sum(lengths)} tokens in {rows} rows of its embedding")
    empty_lengths = [min(len(part.frame) for part in group) for group in groups]
    # Where a template ends is read from its tokens, with which a word may have grown together.
    expected = comfy.encode(clip, empty)[0].shape[1] if cut else sum(empty_lengths)
    if empty_rows != expected:
        raise bad_input(
            node,
            "empty",
            f"an embedding of {empty_rows} rows",
            f"an empty prompt from the text encoder that is connected to 'clip', with {expected} "
            "rows",
        )

    found: dict[int, tuple[int, str]] = {}
    offset, empty_offset = -cut, expected - sum(empty_lengths)
    for group, length, empty_length in zip(groups, lengths, empty_lengths, strict=True):
        for part in group:
            for row, place, token in _places(part):
                if row >= length:
                    continue
                if offset + row not in read[part.name]:
                    raise _cannot_tell(node, f"row {offset + row} does not depend on its word")
                # Some places the empty prompt has not, or its encoder has cut them off.
                source = max(0, empty_offset + min(place, empty_length - 1))
                word = comfy.word_of(clip, part.name, token)
                found.setdefault(offset + row, (source, word))
        offset += length
        empty_offset += empty_length
    in_order = sorted(found)
    return Content(
        rows=tuple(in_order),
        sources=tuple(found[row][0] for row in in_order),
        words=tuple(found[row][1] for row in in_order),
        embeddings=embeddings,
    )


def content_span(tokens: Sequence[Any], frame: Sequence[Any]) -> tuple[int, int]:
    """Where the words are in one chunk of tokens: from and until.

    In front of them is what the empty chunk begins with, too; behind them is its end, with as much
    padding as is left. Encoders that pad in front have that first.

    Args:
        tokens: of the chunk with words.
        frame: the chunk without any.
    """
    padding = _run(frame)
    if 1 < padding < len(frame):
        padded = _run(tokens) if tokens[:1] == frame[:1] else 0
        start, end = content_span(tokens[padded:], frame[padding:])
        return padded + start, padded + end
    pairs = zip(tokens, frame, strict=False)
    start = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(frame)))
    last = len(frame) - _run(frame[::-1])
    after = _run(tokens[::-1]) if tokens[-1:] == frame[-1:] else 0
    end = len(tokens) - min(after, len(tokens) - start)
    # A word may have grown together with the frame's next token, so that less of it is left.
    for begin in range(start, last):
        closing = list(frame[begin:last])
        if end - len(closing) >= start and list(tokens[end - len(closing) : end]) == closing:
            return start, end - len(closing)
    return start, end


def _run(tokens: Sequence[Any]) -> int:
    """How often the first token comes at the start."""
    return next((i for i, token in enumerate(tokens) if token != tokens[0]), len(tokens))


def _part(name: str, chunks: list[list[tuple[Any, ...]]], frame: list[tuple[Any, ...]]) -> _Part:
    # A vector of a textual inversion is a word, and cannot be compared to a number.
    known = [
        [token[0] if isinstance(token[0], int) else None for token in chunk]
        for chunk in [*chunks, frame]
    ]
    spans = [content_span(chunk, known[-1]) for chunk in known[:-1]]
    return _Part(name, [[token[0] for token in chunk] for chunk in chunks], known[-1], spans)


def _places(part: _Part) -> list[tuple[int, int, Any]]:
    """Of each word its place in all chunks together, that in its own chunk, and its token."""
    found, before = [], 0
    for chunk, (start, end) in zip(part.chunks, part.spans, strict=True):
        found += [(before + place, place, chunk[place]) for place in range(start, end)]
        before += len(chunk)
    return found


def _rows_read(node: str, clip: CLIP, tokens: Tokens, part: _Part, embedding: Tensor) -> set[int]:
    """Rows of the embedding that change where this tokenizer reads other words."""
    if all(start == end for start, end in part.spans):
        return set()
    others = [
        [
            (_another_word(token[0]), *token[1:]) if start <= place < end else token
            for place, token in enumerate(chunk)
        ]
        for chunk, (start, end) in zip(tokens[part.name], part.spans, strict=True)
    ]
    other = comfy.encode(clip, {**tokens, part.name: others})[0]
    if other.shape != embedding.shape:
        raise _cannot_tell(node, "with other words it has another number of rows")
    return _other_rows(other, embedding, _READ)


def _another_word(token: Any) -> int:
    return _OTHER_WORD if isinstance(token, int) and token == _WORD else _WORD


def _other_rows(a: Tensor, b: Tensor, tolerance: float) -> set[int]:
    """Rows in which two embeddings ``[batch, rows, width]`` differ, in any of the batch."""
    wide_a, wide_b = a.float(), b.float()
    other = ~((wide_a - wide_b).norm(dim=-1) <= tolerance * wide_b.norm(dim=-1))
    return set(other.any(dim=0).nonzero().flatten().tolist())


def _side_by_side(parts: list[_Part], read: dict[str, set[int]]) -> list[list[_Part]]:
    """Tokenizers in the order of their rows; those with the same rows together."""
    groups: list[list[_Part]] = []
    last = -math.inf
    for part in sorted(parts, key=lambda part: min(read[part.name])):
        if min(read[part.name]) <= last:
            groups[-1].append(part)
        else:
            groups.append([part])
        last = max(last, *read[part.name])
    return groups


def _cannot_tell(node: str, why: str) -> GuidanceError:
    return bad_input(
        node,
        "clip",
        f"a text encoder that does not show which rows of its embedding are the words ({why})",
        "another text encoder, or nothing: then all rows count as words",
    )
