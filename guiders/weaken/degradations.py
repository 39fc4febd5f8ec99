"""What can be taken away from a weight or from a prompt: formulas on plain tensors.

Every function computes in float32, returns a new tensor of the shape, dtype and device it was
given, and leaves its argument as it was. Random numbers are drawn on the CPU in float32, so that
a seed means the same on every device and in every dtype.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def add_relative_noise(W: Tensor, amount: float, generator: Generator) -> Tensor:
    """Add Gaussian noise relative to the weight's own spread: ``W + amount · std(W) · ε``.

    A synthetic corruption in the sense of Karras et al. 2024 (arXiv 2406.02507, section 4), whose
    own are dropout and noise on the input. Relative to the spread, one amount suits layers of
    every scale.

    Args:
        W: weight of any shape.
        amount: standard deviation of the noise over that of the whole tensor; 0 changes nothing,
            0.1 is mild, at 1 as much noise as weight.
        generator: of the CPU; ``W.numel()`` standard normal numbers are drawn from it.
    """
    # The population's deviation: that of a sample would be NaN for a single number.
    spread = W.float().std(correction=0)
    return (W.float() + amount * spread * _normal(W, generator)).to(W.dtype)


def quantize(W: Tensor, bits: int) -> Tensor:
    """Round every output channel to ``bits`` bits, symmetrically, to the nearest level.

    The symmetric per-channel quantiser for weights of Krishnamoorthi 2018 (arXiv 1806.08342): a
    channel (dimension 0) has ``2^bits − 1`` levels, from ``−(2^(bits−1) − 1)`` to
    ``2^(bits−1) − 1`` times its scale, and the last of them is ``max|w|``. Halves go to the even
    level.

    Args:
        W: weight ``[out, …]`` of one or more dimensions.
        bits: 2 or more; 2 leaves the signs of the large weights, 8 is next to lossless.
    """
    levels = 2 ** (bits - 1) - 1
    channels = W.float().flatten(1) if W.ndim > 1 else W.float()[:, None]
    scale = channels.abs().amax(dim=1, keepdim=True) / levels
    # Any scale does for a channel of zeros, so long as nothing is divided by 0.
    scale = torch.where(scale > 0, scale, 1.0)
    return ((channels / scale).round() * scale).reshape(W.shape).to(W.dtype)


def truncate_rank(W: Tensor, keep: float) -> Tensor:
    """Keep the largest singular values of a weight, seen as a matrix ``[out, everything else]``.

    The best approximation of its rank (Eckart and Young 1936), made without a singular value
    decomposition: ``W`` projected onto the leading eigenvectors of ``W Wᵀ`` or ``Wᵀ W``, whichever
    is smaller. Which of two singular values below ``3e-4`` of the largest comes first is lost in
    the square; up to that, it is the truncated decomposition.

    Args:
        W: weight ``[out, …]`` of two or more dimensions.
        keep: share of the full rank ``min(out, everything else)`` that is kept, rounded, but at
            least 1. At 1 or above the values of ``W`` come back bit for bit, and so do those of a
            weight with NaN or infinity in it, which has no singular values.
    """
    matrix = W.float().flatten(1)
    full = min(matrix.shape)
    rank = max(1, round(keep * full))
    largest = matrix.abs().max()
    if rank >= full or not torch.isfinite(largest) or largest == 0:
        return W.clone()
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    # Squares of very large or very small numbers would leave float32.
    unit = tall / largest
    gram = unit.T @ unit
    # Of all devices only the CPU and CUDA are sure to have an eigendecomposition.
    _, vectors = torch.linalg.eigh(gram if gram.is_cuda else gram.cpu())
    leading = vectors[:, -rank:].to(W.device)
    kept = tall @ leading @ leading.T
    # In the order of W in memory too: on some processors a layer rounds otherwise with another.
    kept = kept if tall is matrix else kept.T.contiguous()
    return kept.reshape(W.shape).to(W.dtype)


def drop_tokens(E: Tensor, share: float, generator: Generator) -> Tensor:
    """Replace a share of a prompt's tokens by the mean of those that remain.

    Tokens cannot be left out, since text encoders of the CLIP kind hand over a fixed number of
    them. The mean and not zero: a token's place then holds what is common to the prompt (in a
    padded one mostly the padding), at a length the network knows, while zeros are a signal of
    their own. The first token, where there are more, is neither dropped nor part of the mean: in
    most encoders it carries no word, but values many times those of all others.

    Args:
        E: text embedding ``[batch, tokens, width]``.
        share: 0..1, of the tokens behind the first, rounded, but at least one token above 0. At 1
            only the first remains, and takes every place. A token all alone becomes 0.
        generator: of the CPU; chooses the places, the same for the whole batch.
    """
    first = 1 if E.shape[1] > 1 else 0
    count = E.shape[1] - first
    dropped = 0 if share == 0 else max(1, round(share * count))
    order = torch.randperm(count, generator=generator).to(E.device) + first
    places, remaining = order[:dropped], order[dropped:]
    wide = E.float()
    if len(remaining):
        filling = wide[:, remaining].mean(dim=1, keepdim=True)
    else:
        filling = wide[:, :1] if first else torch.zeros_like(wide)
    result = wide.clone()
    result[:, places] = filling
    return result.to(E.dtype)


def add_prompt_noise(E: Tensor, amount: float, generator: Generator) -> Tensor:
    """Add Gaussian noise as strong as a share of each prompt's own spread.

    Noise on the condition is how condition annealing (Sadat et al. 2023, arXiv 2310.17347)
    corrupts it, there on a schedule and here at one strength.

    Args:
        E: embedding ``[batch, tokens, width]``, or pooled ``[batch, width]``.
        amount: standard deviation of the noise over that of each item of the batch.
        generator: of the CPU; as many standard normal numbers are drawn from it as one item has,
            the same for the whole batch, so that no item depends on what it is batched with.
    """
    dimensions = tuple(range(1, E.ndim))
    spread = E.float().std(dim=dimensions, correction=0, keepdim=True)
    return (E.float() + amount * spread * _normal(E[:1], generator)).to(E.dtype)


def blur_prompt(E: Tensor, amount: float) -> Tensor:
    """Move every token towards the mean of them all: which word is which fades, the gist stays.

    Args:
        E: text embedding ``[batch, tokens, width]``.
        amount: 0..1; 0 changes nothing, at 1 all tokens are their mean.
    """
    wide = E.float()
    return wide.lerp(wide.mean(dim=1, keepdim=True), amount).to(E.dtype)


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.device)
