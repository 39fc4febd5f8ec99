"""The arithmetic of guidance, on denoised predictions.

Every method has the one form ``guided = C + Σ strength · shape(C − R)``: a push of the main model's
prediction ``C`` away from the prediction ``R`` of a bad version. ``delta`` is the difference
``C − R`` of one push, or what shapes before this one have made of it.

Tensors are ``[batch, channels, *spatial]`` of any floating dtype and on any device; results keep
both. A strength is the artist's scale less 1, a number, or a tensor ``[batch]`` where every sample
has its own; :func:`add_push` also takes one like ``delta``, for a latent whose parts each have
theirs. ``⟨·,·⟩`` and ``‖·‖`` run over everything but the batch. Where a direction has no length,
nothing lies along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Strength = float | Tensor


def add_push(guided: Tensor, delta: Tensor, strength: Strength) -> Tensor:
    """Add one push away from a bad version: ``guided + strength · delta``.

    With ``guided = C`` and ``delta = C − W``, the weak model's prediction being ``W``, this is
    autoguidance, ``W + w(C − W)`` for the scale ``w = strength + 1`` (Karras et al. 2024, arXiv
    2406.02507, eq. 4, on denoisers). With the result of classifier-free guidance as ``guided`` it
    is both together, ``C + (s − 1)(C − N) + (w − 1)(C − W)`` (the same paper, appendix B.2).

    Args:
        guided: prediction so far, to which the pushes before this one have been added.
        delta: the difference of this push, shaped.
        strength: 0 adds nothing, above 0 pushes away from the bad version, below 0 pulls towards
            it.

    Returns:
        A new tensor of the shape of ``guided``.
    """
    if isinstance(strength, Tensor):
        return torch.addcmul(guided, delta, _spread(strength, delta))
    return guided.add(delta, alpha=strength)


def projected(delta: Tensor, C: Tensor, eta: float) -> Tensor:
    """Weaken the part of a push that is parallel to the prediction: ``delta⊥ + η · delta∥``.

    The parallel part drives saturation, the orthogonal one quality (adaptive projected guidance,
    Sadat et al. 2024, arXiv 2410.02416, algorithm 1).

    Args:
        eta: share of the parallel part that stays; 1 changes nothing.
    """
    return _add_along(delta, C, (eta - 1.0) * _share_along(delta, C))


def with_momentum(delta: Tensor, before: Tensor | None, beta: float) -> Tensor:
    """Average a push over the steps: ``delta + β · before`` (arXiv 2410.02416, algorithm 1).

    Args:
        before: what this function returned at the step before, None at the first one.
        beta: below 0 damps what the pushes of all steps have in common, above 0 strengthens it.
    """
    return delta if before is None else delta.add(before, alpha=beta)


def capped(delta: Tensor, limit: float | Tensor) -> Tensor:
    """Shorten a push to at most ``limit``: ``delta · min(1, limit/‖delta‖)``.

    With a number as the limit it is the norm threshold of arXiv 2410.02416, algorithm 1.
    """
    return delta * _spread(_at_most_one(limit, norm(delta)), delta)


def rejected(delta: Tensor, other: Tensor) -> Tensor:
    """Keep of a push only what is orthogonal to another one, ``delta⊥``."""
    return _add_along(delta, other, -_share_along(delta, other))


def kept_along(delta: Tensor, other: Tensor) -> Tensor:
    """Keep of a push only what lies along another one, ``delta∥``."""
    return other * _spread(_share_along(delta, other), other)


def rescaled(delta: Tensor, C: Tensor, strength: Strength, phi: float) -> Tensor:
    """Take back the contrast that a push has added to the image.

    The result ``G = C + strength · delta`` becomes ``G · (φ · std(C)/std(G) + 1 − φ)`` (Lin et al.
    2023, arXiv 2305.08891, eq. 15 and 16), here on denoised predictions, where it holds the
    contrast of the image itself.

    Args:
        strength: of this push.
        phi: how much of the contrast is taken back, 0 nothing, 1 all.

    Returns:
        The ``delta`` that leads to this result with the same strength.
    """
    deviation = _std(add_push(C, delta, strength))
    ratio = torch.where(deviation > 0, _std(C) / deviation, torch.ones_like(deviation))
    factor = phi * (ratio - 1.0) + 1.0
    of_C = _divided(factor - 1.0, strength)
    return torch.addcmul(delta * _spread(factor, delta), C, _spread(of_C, C))


def zero_star(delta: Tensor, x: Tensor, C: Tensor) -> Tensor:
    """Push away from the best multiple of the bad version's velocity (CFG-Zero*).

    With velocities ``v = (x − denoised)/σ``, it pushes away from ``s* · v_R``, ``s* = ⟨v_C, v_R⟩ /
    ⟨v_R, v_R⟩`` (Fan et al. 2025, arXiv 2503.18886); ``σ`` cancels out.

    Args:
        x: noisy latent that the predictions were made from.
    """
    v_C = x - C
    v_R = v_C + delta
    return _add_along(delta, v_R, _share_along(v_C, v_R) - 1.0)


def perp_neg(delta: Tensor, C: Tensor, U: Tensor, strength: Strength, weight: float) -> Tensor:
    """Push away only from what a negative prompt has and the positive one has not (Perp-Neg).

    With the prediction ``U`` for an empty prompt, ``P = C − U`` and ``Q = R − U``, the result is
    ``U + s(P − w · Q⊥P)`` for the scale ``s = strength + 1`` (Armandpour et al. 2023, arXiv
    2304.04968).

    Args:
        U: the main model's prediction for an empty prompt.
        strength: of this push.
        weight: ``w``, how much of the negative prompt counts; 0 leaves guidance by ``U`` alone.

    Returns:
        The ``delta`` that leads to this result with the same strength.
    """
    P = C - U
    Q = P - delta
    share = _share_along(Q, P)
    of_Q = -weight * (1.0 + _divided(torch.ones_like(share), strength))
    return _add_along(torch.addcmul(P, Q, _spread(of_Q, Q)), P, -of_Q * share)


def frequencies(delta: Tensor, low: float, high: float, levels: int) -> Tensor:
    """Scale the coarse and the fine of a push apart.

    ``low · L(delta) + high · (delta − L(delta))``, where ``L`` goes down a Gaussian pyramid and up
    again, over the last two dimensions (guidance in the frequency domain, Sadat et al. 2025, arXiv
    2506.19713, algorithm 1).

    Args:
        low: factor for the coarse structures: layout and colour.
        high: factor for the fine ones: outlines and texture.
        levels: how many octaves count as fine, at least 1; each one halves the resolution.
    """
    images = delta.flatten(0, -3)[:, None]
    sizes = []
    coarse = images
    for _ in range(levels):
        sizes.append(coarse.shape[-2:])
        half = [max(1, size // 2) for size in coarse.shape[-2:]]
        coarse = F.interpolate(_blurred(coarse), size=half, mode="bilinear")
    for size in reversed(sizes):
        coarse = _blurred(F.interpolate(coarse, size=size, mode="bilinear"))
    return (delta * high).add(coarse.reshape(delta.shape), alpha=low - high)


def region(masks: Tensor, shape: Sequence[int], feather: int = 0, outside: float = 0.0) -> Tensor:
    """How much of a push stays at each place of a latent: all in a region, a share around it.

    Masks that are larger than the latent are averaged, so that what is thinner than a place of the
    latent keeps its weight; smaller ones are interpolated. (This project's own.)

    Args:
        masks: ``[masks, height, width]`` of any size, 0 to 1. Of images, one for all samples, or
            one for each, taken again from the first where there are fewer. Of a video, one for all
            frames, or one for each frame, whatever their number; see :func:`over_time`.
        shape: of the latent, ``[batch, channels, height, width]`` or
            ``[batch, channels, frames, height, width]``.
        feather: for :func:`feathered`.
        outside: share of the push that stays where a mask is 0.

    Returns:
        What the push is to be multiplied with, in 32 bits at least: like the latent, with one
        channel, and one sample or frame where all have the same.
    """
    batch, _, *frames, height, width = shape
    wide = _wide(masks.dtype)
    # One by one, for the sake of memory: a video may have hundreds of large ones.
    each = (mask.to(wide).clamp(0.0, 1.0) for mask in masks.split(1))
    inside = torch.cat([resized(feathered(mask, feather), (height, width)) for mask in each])
    weight = inside + outside * (1.0 - inside)
    if frames and frames[0] > 1:
        return over_time(weight, frames[0])[None, None]
    if len(weight) > 1:
        weight = weight[torch.arange(batch, device=weight.device) % len(weight)]
    return weight.view(len(weight), 1, *(1 for _ in frames), height, width)


def feathered(masks: Tensor, width: int) -> Tensor:
    """Soften the edges of masks ``[masks, height, width]``.

    An edge rises in a straight line over ``width`` pixels, half of them inside. The border of a
    mask is no edge.
    """
    reach = int(width) // 2
    if reach == 0:
        return masks
    length = 2 * reach + 1
    sums = F.pad(masks[:, None], (reach,) * 4, mode="replicate")[:, 0]
    for dim in (1, 2):
        running = torch.cat([torch.zeros_like(sums.narrow(dim, 0, 1)), sums.cumsum(dim)], dim)
        size = masks.shape[dim]
        sums = running.narrow(dim, length, size) - running.narrow(dim, 0, size)
    # Once and at the end, so that what is 1 far and wide stays 1.
    return (sums / length**2).clamp(0.0, 1.0)


def resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring masks ``[masks, height, width]`` to another height and width.

    Means where a side becomes shorter, straight lines from pixel to pixel where it becomes longer.
    """
    shorter = tuple(map(min, masks.shape[-2:], size))
    means = F.interpolate(masks[:, None], size=shorter, mode="area")
    return F.interpolate(means, size=size, mode="bilinear")[:, 0]


def over_time(masks: Tensor, frames: int) -> Tensor:
    """Bring the masks of a video, ``[masks, height, width]``, to the frames of its latent.

    A video autoencoder makes one latent frame of the first image and one of every few images after
    it. Where the masks fit to that they are averaged so; else they are stretched evenly, as ComfyUI
    does.

    Returns:
        ``[frames, height, width]``; a mask alone as it is.
    """
    if len(masks) in (1, frames):
        return masks
    first, rest = masks[:1], masks[1:]
    if len(masks) > frames > 1 and len(rest) % (frames - 1) == 0:
        return torch.cat([first, rest.unflatten(0, (frames - 1, -1)).mean(1)])
    rows = masks.flatten(1).T[None]
    means = F.interpolate(rows, size=min(len(masks), frames), mode="area")
    stretched = F.interpolate(means, size=frames, mode="linear")
    return stretched[0].T.view(frames, *masks.shape[1:])


def posterior_of_negative(
    posterior: Tensor,
    x: Tensor,
    sigma: Tensor,
    C: Tensor,
    N: Tensor,
    x_next: Tensor,
    sigma_next: Tensor,
    *,
    temperature: float,
    offset: float,
    flow: bool,
) -> Tensor:
    """How probable the negative prompt has become by a step ``(x, σ) → (x′, σ′)``, by Bayes.

    Of two ways in which the step may have come about, from the prediction ``C`` or from that for
    the negative prompt, each one is a Gaussian around ``μ(D) = D + (σ′²/σ²)(x − D)`` with the
    variance ``σ̃² = σ′²(σ² − σ′²)/σ²``, so that ``p`` becomes
    ``p · exp[(−T(‖x′ − μ(N)‖² − ‖x′ − μ(C)‖²) + δ) / (2σ̃²)]`` (dynamic negative guidance,
    Koulischer et al. 2024, arXiv 2410.14398, algorithm 2 and appendix D.1). It is
    computed as ``ln p − T⟨y, C − N⟩/σ′² + δ/(2σ̃²)``, with ``y`` reaching from half way between both
    means to ``x′``: the difference of two large squares would round away.

    Args:
        posterior: ``p`` before the step, ``[batch]``, above 0.
        x: noisy latent before the step; a flow model's, at its time ``σ``, where ``flow``.
        sigma: noise level before the step, ``[batch]``.
        C: the main model's prediction at ``x``.
        N: the negative prompt's prediction at ``x``.
        x_next: noisy latent after the step.
        sigma_next: noise level after the step, ``[batch]``, below ``sigma``.
        temperature: ``T``, how much of the evidence counts.
        offset: ``δ``, evidence for the negative prompt at every step.
        flow: whether ``x = (1 − σ) · data + σ · noise`` rather than ``data + σ · noise``.

    Returns:
        ``p`` after the step, ``[batch]``, from 0 to infinity.
    """
    signal, signal_next = (1.0 - sigma, 1.0 - sigma_next) if flow else (1.0, 1.0)
    ratio = (sigma_next * signal / (sigma * signal_next)) ** 2
    # Of x, and not of x/signal, which has no end where a flow model starts.
    of_x = sigma_next**2 * signal / (sigma * signal_next) ** 2
    y = x_next * _spread(1.0 / (torch.ones_like(sigma) * signal_next), x)
    y = torch.addcmul(y, x, _spread(-of_x, x))
    half = _spread((ratio - 1.0) / 2, x)
    y.addcmul_(C, half).addcmul_(N, half)
    variance = (sigma_next / signal_next) ** 2
    evidence = dot(y, C - N) / variance
    drift = offset / (2 * variance * (1.0 - ratio))
    return (posterior.log() - temperature * evidence + drift).exp()


def mean_velocity(v: Tensor, before: Tensor | None, beta: float) -> Tensor:
    """The running mean of a path's velocities: ``m ← (1 − β) · v + β · m``; ``v`` at the first one.

    Args:
        v: ``(x − D)/σ`` at this step, for the sampler's result ``D``.
        before: what this function returned at the step before, None at the first one.
        beta: ``β``, 0 to 1, how much of the past stays.
    """
    return v if before is None else torch.lerp(v, before, beta)


def mean_prediction(D: Tensor, before: Tensor | None, beta: float) -> Tensor:
    """The running mean of a path's predictions: ``g ← α · D + (1 − α) · g``, from ``g = 0`` on.

    History-guided sampling (HiGS, Sadat et al. 2025, arXiv 2509.22300), with ``β = 1 − α``.

    Args:
        D: the sampler's result at this step.
        before: what this function returned at the step before, None at the first one.
        beta: ``β``, 0 to 1, how much of the past stays.
    """
    return D * (1.0 - beta) if before is None else torch.lerp(D, before, beta)


def high_passed(delta: Tensor, cutoff: float) -> Tensor:
    """Leave the coarse waves out of a push: ``iDCT(sigmoid(50 · (r − cutoff)) · DCT(delta))``.

    ``r = √((i/H)² + (j/W)²)`` for the wave ``(i, j)`` of the discrete cosine transform over height
    and width; over the length alone where latents have no height (HiGS, arXiv 2509.22300).

    Args:
        cutoff: where half of a wave stays; 1 is that of the finest waves.
    """
    wide = delta.to(_wide(delta.dtype))
    sides = range(2 if delta.ndim == 3 else delta.ndim - 2, delta.ndim)
    turned = {side: _cosines(delta.shape[side], wide.dtype, delta.device) for side in sides}
    waves, squares = wide, wide.new_zeros(())
    for side, cosines in turned.items():
        waves = (waves.movedim(side, -1) @ cosines.T).movedim(-1, side)
        along = torch.arange(len(cosines), dtype=wide.dtype, device=delta.device) / len(cosines)
        squares = squares[..., None] + along**2
    waves = waves * torch.sigmoid(50 * (squares.sqrt() - cutoff))
    for side, cosines in turned.items():
        waves = (waves.movedim(side, -1) @ cosines).movedim(-1, side)
    return waves.to(delta.dtype)


def distance_to_mean(sigma: Tensor, deviation: float, dimensions: int, flow: bool) -> Tensor:
    """How far a sample may be expected from its posterior mean: ``√n · σ σ_d/√(σ² + σ_d²)``.

    That holds for normally distributed data. At a flow model's time ``t``, ``σ`` is ``t/(1 − t)``.

    Args:
        sigma: noise level, ``[batch]``; a flow model's time, where ``flow``.
        deviation: ``σ_d``, the standard deviation of the data.
        dimensions: ``n``, how many numbers a sample has.

    Returns:
        Distances, ``[batch]``.
    """
    noise = sigma
    data = deviation * (1.0 - sigma) if flow else torch.full_like(sigma, deviation)
    return dimensions**0.5 * deviation * noise / torch.hypot(noise, data).clamp_min(1e-30)


def carried_over(
    delta: Tensor, sigma: Tensor, sigma_now: Tensor, deviation: float, flow: bool
) -> Tensor:
    """What to take a difference for at another noise level: ``delta · d(σ′)/d(σ)``.

    Predictions come together as the noise falls, since less is left open to either model. The
    difference is taken to shrink as the distance ``d`` of a sample from its mean does; see
    :func:`distance_to_mean`. (This project's own.)

    Args:
        delta: ``C − R``, or what was made of it, at ``sigma``.
        sigma: noise level at which it was found, ``[batch]``; a flow model's time, where ``flow``.
        sigma_now: noise level that it is for, likewise.
        deviation: ``σ_d``, the standard deviation of the data.
        flow: whether ``x = (1 − σ) · data + σ · noise`` rather than ``data + σ · noise``.

    Returns:
        A new tensor of the shape of ``delta``.
    """
    found, now = (distance_to_mean(each, deviation, 1, flow) for each in (sigma, sigma_now))
    return delta * _spread(now / found.clamp_min(1e-30), delta)


def norm(a: Tensor) -> Tensor:
    """``‖a‖`` of each sample, ``[batch]``, in 32 bits at least."""
    # In two steps, as one long sum in 32 bits loses digits.
    rows = torch.linalg.vector_norm(a, dim=-1, dtype=_wide(a.dtype))
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """``⟨a, b⟩`` of each sample, ``[batch]``, in 32 bits at least."""
    wide = _wide(a.dtype)
    return (a.to(wide) * b.to(wide)).flatten(1).sum(1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between ``a`` and ``b`` of each sample, ``[batch]``; 1 without length."""
    lengths = norm(a) * norm(b)
    return torch.where(lengths > 0, dot(a, b) / lengths, torch.ones_like(lengths))


def _share_along(a: Tensor, v: Tensor) -> Tensor:
    """``⟨a, v⟩/⟨v, v⟩``, ``[batch]``; 0 where ``v`` has no length."""
    # Unit vectors, or the squares of very small numbers would be zero.
    length = norm(v)
    unit = torch.where(length > 0, 1.0 / length, torch.zeros_like(length)).nan_to_num(posinf=0.0)
    return dot(a, v * _spread(unit, v)) * unit


def _add_along(a: Tensor, v: Tensor, share: Tensor) -> Tensor:
    return torch.addcmul(a, v, _spread(share, v))


def _at_most_one(limit: float | Tensor, length: Tensor) -> Tensor:
    """``min(1, limit/length)``; 1 where there is no length."""
    ratio = limit / torch.where(length > 0, length, torch.ones_like(length))
    return torch.where(length > 0, ratio.clamp(max=1.0), torch.ones_like(length))


def _divided(a: Tensor, b: float | Tensor) -> Tensor:
    """``a/b``; 0 where ``b`` is 0: a push of that strength adds nothing anyway."""
    b = torch.as_tensor(b, dtype=a.dtype, device=a.device)
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, 1.0, b))


def _std(a: Tensor) -> Tensor:
    return a.to(_wide(a.dtype)).flatten(1).std(1)


def _blurred(images: Tensor) -> Tensor:
    """``[n, 1, height, width]`` with the binomial kernel (1, 4, 6, 4, 1)/16 along both sides."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype, device=images.device) / 16
    mode = "reflect" if min(images.shape[-2:]) > 2 else "replicate"
    padded = F.pad(images, (2, 2, 2, 2), mode=mode)
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 5, 1)), kernel.view(1, 1, 1, 5))


@lru_cache(maxsize=8)
def _cosines(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II) as a matrix ``[wave, place]``."""
    n = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(torch.pi / size * (n + 0.5) * n[:, None]) * (2.0 / size) ** 0.5
    waves[0] *= 0.5**0.5
    return waves.to(device, dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """``[batch]`` as ``[batch, 1, …]``, in the dtype of what it is to be multiplied with."""
    if values.ndim == like.ndim:
        return values.to(like.dtype)
    return values.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))
