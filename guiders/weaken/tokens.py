"""The image's tokens in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import perturbations
from .network import Block, Network
from .passes import Around, GoOn, Pass, Places, Streams, weakened
from .perturbations import generator_for

if TYPE_CHECKING:
    from ..comfy import ModelPatcher


def has_tokens(network: Network, block: Block) -> bool:
    """Whether the image goes into a block as tokens that can be put in another order."""
    return network.has_tokens(block)


def shuffle_tokens(
    node: str, model: ModelPatcher, *, share: float, seed: int, blocks: Sequence[Block]
) -> ModelPatcher:
    """Put a share of the image's tokens in another order on their way into blocks.

    Token perturbation guidance (Rajabi et al. 2025, arXiv 2506.10036). Each noise level and each
    block has an order of its own, the same for the same seed.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        share: of the tokens that change places, above 0, up to 1.
        seed: of the order.
        blocks: of its network; of a U-Net's, the transformers in them.
    """

    def shuffle(run: Pass) -> None:
        order = _Order(share, seed, run.sigma)
        if run.network.is_unet:
            _shuffle_in_unet(run, order, blocks)
            return
        places = Places(run)
        Around(node, run, blocks, partial(_shuffle_streams, run, order, places))
        places.watch(run)

    return weakened(node, model, blocks, shuffle)


@dataclass(frozen=True)
class _Order:
    """The order of the tokens in one pass."""

    share: float
    seed: int
    sigma: float

    def of(self, x: Tensor, span: slice, path: str) -> Tensor:
        generator = generator_for("cpu", self.seed, self.sigma, path)
        return perturbations.shuffle_tokens(x, span, self.share, generator)


def _shuffle_streams(
    run: Pass, order: _Order, places: Places, block: Block, streams: Streams, go_on: GoOn
) -> Streams:
    stream = run.network.stream_of(block)
    x = run.image_of(streams[stream])
    batched = x[None] if run.network.architecture.flat else x
    span = places.span(*batched.shape[1:]) if batched.ndim == 3 else None
    if span is None:
        return go_on(streams)
    run.reached.add(block)
    shuffled = order.of(batched, span, block.path).view_as(x)
    return go_on({**streams, stream: run.with_image(streams[stream], shuffled)})


def _shuffle_in_unet(run: Pass, order: _Order, blocks: Sequence[Block]) -> None:
    for block in blocks:
        for transformer in run.network.transformers(block):
            module = run.network.module_of(transformer)
            forward = partial(_on_shuffled, run, order, block, transformer, module.forward)
            run.detour(module, forward)


def _on_shuffled(
    run: Pass,
    order: _Order,
    block: Block,
    transformer: Block,
    original: Callable[..., Tensor],
    /,
    x: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    run.reached.add(block)
    return original(order.of(x, slice(0, x.shape[1]), transformer.path), *args, **kwargs)
