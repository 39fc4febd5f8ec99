"""Latents that have parts: sound with video, which ComfyUI puts in one row while it samples.

A part is what has a size and a direction of its own: lengths, shares and spreads of the row would
be mostly those of its largest part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Of each part, without the batch.
Parts = tuple[tuple[int, ...], ...]


def split(row: Tensor, parts: Parts) -> list[Tensor]:
    """Take the parts out of a row ``[batch, 1, numbers]``, each ``[batch, *shape]``."""
    pieces = row.split([math.prod(shape) for shape in parts], dim=-1)
    return [piece.reshape(len(row), *shape) for piece, shape in zip(pieces, parts, strict=True)]


def join(parts: Sequence[Tensor]) -> Tensor:
    """Put parts ``[batch, *shape]`` in one row ``[batch, 1, numbers]``."""
    return torch.cat([part.reshape(len(part), 1, -1) for part in parts], dim=-1)


def join_by_sample(values: Sequence[float | Tensor], parts: Parts) -> float | Tensor:
    """One number for each part and sample, ``[batch]`` each, as it counts for a row.

    Returns:
        ``[batch, 1, numbers]``; a number alone where it is the same for all of them.
    """
    if not any(isinstance(value, Tensor) for value in values) and len(set(values)) == 1:
        return values[0]
    batch, like = next((len(each), each) for each in values if isinstance(each, Tensor))
    spread = [torch.as_tensor(value).to(like).expand(batch) for value in values]
    sizes = [math.prod(shape) for shape in parts]
    pairs = zip(spread, sizes, strict=True)
    return torch.cat([each.view(-1, 1, 1).expand(-1, 1, size) for each, size in pairs], dim=-1)


def by_sample(values: float | Tensor | None) -> float | Tensor | None:
    """The mean over the row of what :func:`join_by_sample` has joined; all else as it is."""
    if not isinstance(values, Tensor) or values.ndim == 1:
        return values
    return values.flatten(1).mean(1)
