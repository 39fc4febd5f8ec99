"""What makes a pass of a network worse: attention, tokens, its clock and activations, weakened.

Pure functions. Queries, keys and values are ``[batch, heads, tokens, width]``; the tokens of the
image are ``span`` of them, in the order of ``grid``: frames, rows, columns. What else is in the
sequence (text, reference images) is never weakened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

# Attention as the network computes it: queries, keys, values and an additive mask or None.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
Grid = tuple[int, int, int]

_POWER_ITERATIONS = 16


def identity_attention(
    q: Tensor, k: Tensor, v: Tensor, span: slice, mask: Tensor | None, attend: Attend
) -> Tensor:
    """Attention in which a token of the image sees no other one: perturbed attention.

    Where image and text share one sequence, it still sees the text. Without other tokens the
    result is ``v``: the attention matrix of the image is the identity (Ahn et al. 2024, arXiv
    2403.17377, section 4).

    Args:
        q, k, v: of one length.
        span: which tokens are the image's.
        mask: additive, broadcastable to ``[batch, heads, tokens, tokens]``.
        attend: unweakened attention, for the tokens that are not the image's.
    """
    others = _others(span, q.shape[2], q.device)
    if len(others) == 0:
        return v
    out = torch.empty_like(v)
    rows = torch.arange(span.start, span.stop, device=q.device)
    out[:, :, others] = attend(q[:, :, others], k, v, _cut(mask, others, None))
    # Scaled first, since products of long vectors are more than half precision holds.
    image = q[:, :, span] * q.shape[-1] ** -0.5
    seen = image @ k[:, :, others].transpose(-1, -2)
    itself = (image * k[:, :, span]).sum(-1, keepdim=True)
    if mask is not None:
        seen = seen + _cut(mask, rows, others)
        itself = itself + _diagonal(mask, rows)
    precise = torch.promote_types(v.dtype, torch.float32)
    weights = torch.cat((itself, seen), dim=-1).softmax(-1, dtype=precise).to(v.dtype)
    out[:, :, span] = weights[..., :1] * v[:, :, span] + weights[..., 1:] @ v[:, :, others]
    return out


def blurred_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    span: slice,
    grid: Grid,
    strength: float,
    mask: Tensor | None,
    attend: Attend,
) -> Tensor:
    """Attention with queries blurred over the image: smoothed energy guidance.

    Blurring the queries blurs the attention weights before their softmax (Hong 2024, arXiv
    2408.00760, section 4). The Gaussian has a standard deviation of ``s/(1 − s)/4`` sides of the
    image, in each frame; at ``strength`` 1 every query is the mean of its frame's.
    """
    frames, rows, columns = grid
    batch, heads, _, width = q.shape
    queries = q[:, :, span].reshape(batch, heads, frames, rows, columns, width)
    for axis, side in ((3, rows), (4, columns)):
        blur = gaussian_blur(side, strength).to(q)
        queries = torch.movedim(torch.tensordot(blur, queries, ([1], [axis])), 0, axis)
    blurred = q.clone()
    blurred[:, :, span] = queries.reshape(batch, heads, -1, width)
    return attend(blurred, k, v, mask)


def gaussian_blur(side: int, strength: float) -> Tensor:
    """Matrix ``[side, side]`` of a Gaussian blur whose weights add up to 1 at the borders too."""
    if strength >= 1:
        return torch.full((side, side), 1 / side, dtype=torch.float64)
    sigma = max(side * strength / (1 - strength) / 4, 1e-3)
    distance = torch.arange(side, dtype=torch.float64)
    return (-0.5 * ((distance[:, None] - distance) / sigma) ** 2).softmax(-1)


def windowed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    span: slice,
    grid: Grid,
    strength: float,
    mask: Tensor | None,
    attend: Attend,
) -> Tensor:
    """Attention in which a token of the image sees only its neighbourhood, in all frames.

    The window is centred on the token and reaches ``(1 − strength)/2`` of the image's rows and
    columns to each side; at ``strength`` 1 a token sees its own place alone. A receptive field cut
    to a sliding window is the weak model of Kaiser et al. 2024, arXiv 2411.10257. Image tokens
    are taken in strips of rows, so that no mask of the whole attention matrix is ever made.
    """
    frames, rows, columns = grid
    reach_y, reach_x = (int((1 - strength) * side / 2) for side in (rows, columns))
    others = _others(span, q.shape[2], q.device)
    out = torch.empty_like(v)
    if len(others):
        out[:, :, others] = attend(q[:, :, others], k, v, _cut(mask, others, None))
    place = torch.arange(frames * rows * columns, device=q.device).view(frames, rows, columns)
    column = torch.arange(columns, device=q.device)
    row = torch.arange(rows, device=q.device)
    strip = max(1, reach_y)
    for top in range(0, rows, strip):
        bottom = min(rows, top + strip)
        low, high = max(0, top - reach_y), min(rows, bottom + reach_y)
        keys = span.start + place[:, low:high].reshape(-1)
        near_y = (row[top:bottom, None] - row[low:high]).abs() <= reach_y
        near_x = (column[:, None] - column).abs() <= reach_x
        near = (near_y[:, None, :, None] & near_x[None, :, None, :]).flatten(2).flatten(0, 1)
        hidden = torch.zeros(near.shape, dtype=q.dtype, device=q.device)
        hidden.masked_fill_(~near, torch.finfo(q.dtype).min)
        visible = torch.cat((hidden.repeat(1, frames), hidden.new_zeros(len(near), len(others))), 1)
        keys = torch.cat((keys, others))
        for frame in range(frames):
            queries = span.start + place[frame, top:bottom].reshape(-1)
            part = visible if mask is None else visible + _cut(mask, queries, keys)
            out[:, :, queries] = attend(q[:, :, queries], k[:, :, keys], v[:, :, keys], part)
    return out


def shuffled_order(x: Tensor, span: slice, share: float, generator: torch.Generator) -> Tensor:
    """An order in which a share of the image's tokens change places, the same for the whole batch.

    A permutation keeps the norm and the statistics of the tokens (Rajabi et al. 2025, arXiv
    2506.10036, section 3).

    Args:
        x: tokens ``[batch, tokens, width]``.
        span: which of them are the image's.
        share: of these, how many change places among themselves, 0 to 1; two at least.
        generator: of a CPU, so that one seed gives the same order on any device.

    Returns:
        For each place the one whose token goes there, ``[1, tokens]``.
    """
    length = span.stop - span.start
    count = min(length, max(2, round(share * length)))
    chosen = span.start + torch.randperm(length, generator=generator)[:count]
    order = torch.arange(x.shape[1])
    # One cycle through all that were chosen, so that none stays where it was.
    order[chosen] = chosen.roll(1)
    return order[None].to(x.device)


def swapped_order(x: Tensor, span: slice, share: float) -> Tensor:
    """An order in which the image's tokens that are most unlike each other are swapped, in pairs.

    Self-swap guidance (Zhang et al. 2026, arXiv 2604.08048): pairs of the least cosine similarity.
    To compare all tokens with each other would take the square of their number, for a video's
    30,000 tokens at each block. So the similarity of two tokens is taken along the one direction in
    which the image's tokens of length 1 differ most: the sum over pairs is least there if the
    token at one end goes with that at the other, and so on inwards. Time and memory are those of
    one copy of the tokens and some products with a vector. An image depends on nothing but itself.

    Args:
        x: tokens ``[batch, tokens, width]``; of any precision, half precision is worked on in
            single.
        span: which of them are the image's.
        share: of these, how many change places, 0 to 1; one pair at least.

    Returns:
        For each place the one whose token goes there, ``[batch, tokens]``; its own inverse.
    """
    length = span.stop - span.start
    pairs = min(length // 2, max(1, round(share * length / 2)))
    order = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
    # One image after the other: less memory, and the same numbers in any batch.
    for own, image in zip(order, x[:, span], strict=True):
        ranks = span.start + _along_main_axis(image).argsort(stable=True)
        low, high = ranks[:pairs], ranks.flip(0)[:pairs]
        own[low], own[high] = high, low
    return order


def _along_main_axis(image: Tensor) -> Tensor:
    """Where tokens ``[tokens, width]``, brought to length 1, lie on the axis of most variance."""
    exact = torch.promote_types(image.dtype, torch.float32)
    tokens = image.to(exact, copy=True)
    tiny = torch.finfo(exact).tiny
    tokens.div_(tokens.norm(dim=1, keepdim=True).clamp_min(tiny))
    tokens.sub_(tokens.mean(0))
    # Power iteration, from the token that differs most from the mean.
    axis = tokens.index_select(0, tokens.norm(dim=1).argmax()[None])[0]
    for _ in range(_POWER_ITERATIONS):
        axis = tokens.T @ (tokens @ axis)
        axis = axis / axis.norm().clamp_min(tiny)
    return tokens @ axis


def in_order(x: Tensor, order: Tensor) -> Tensor:
    """Tokens ``[batch, tokens, width]`` in an order, ``[1 or batch, tokens]``."""
    return x[:, order[0]] if len(order) == 1 else x.take_along_dim(order[..., None], 1)


def noisy_embedding(embedding: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Add noise to an embedding, relative to the spread of its own values: ``e + amount·std(e)·n``.

    The noise of time step guidance (Sadat et al. 2024, arXiv 2407.02687, section 4). It is one for
    the whole batch, so that an image does not depend on what it is batched with, and one for all
    frames and tokens that have a time of their own.

    Args:
        embedding: ``[…, width]``; of any precision, half precision is worked on in single.
        amount: of noise; 0 for none.
        generator: of a CPU, so that one seed gives the same noise on any device.
    """
    exact = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
    noise = torch.randn(embedding.shape[-1], generator=generator).to(exact)
    return (exact + amount * exact.std(-1, keepdim=True) * noise).to(embedding.dtype)


def drop_activations(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Set a share of the activations to zero, and scale the others by ``1/(1 − rate)``.

    The mask is one for the whole batch, so that an image does not depend on what it is batched
    with. Dropout is the corruption of Karras et al. 2024, arXiv 2406.02507, section 4.
    """
    kept = torch.empty(x.shape[1:], dtype=x.dtype, device=x.device)
    kept.bernoulli_(1 - rate, generator=generator)
    return x * kept.div_(1 - rate)


def generator_for(device: torch.device | str, *of: object) -> torch.Generator:
    """A generator that depends on nothing but what is passed, in this process and in the next."""
    digest = hashlib.blake2b(repr(of).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn an attention mask of any of ComfyUI's forms into an additive one of four dimensions."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
            ~mask, torch.finfo(dtype).min
        )
    while mask.ndim < 4:
        # Two dimensions are queries and keys, three have the batch before them.
        mask = mask.unsqueeze(0 if mask.ndim == 2 else 1)
    return mask.to(dtype)


def _others(span: slice, length: int, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    return torch.cat((places[: span.start], places[span.stop :]))


def _cut(mask: Tensor | None, rows: Tensor | None, columns: Tensor | None) -> Tensor | None:
    """Cut queries and keys out of a mask, along those of its dimensions that are no broadcast."""
    if mask is None:
        return None
    if rows is not None and mask.shape[-2] > 1:
        mask = mask.index_select(-2, rows)
    if columns is not None and mask.shape[-1] > 1:
        mask = mask.index_select(-1, columns)
    return mask


def _diagonal(mask: Tensor, rows: Tensor) -> Tensor:
    """What the mask adds where a token sees itself, ``[…, tokens, 1]``."""
    if mask.shape[-2] == 1:
        return mask.index_select(-1, rows).transpose(-1, -2) if mask.shape[-1] > 1 else mask
    if mask.shape[-1] == 1:
        return mask.index_select(-2, rows)
    return mask.diagonal(dim1=-2, dim2=-1).index_select(-1, rows).unsqueeze(-1)
