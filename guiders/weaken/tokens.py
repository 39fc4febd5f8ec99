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

SHUFFLE, SWAP = MODES = ("shuffle", "swap")


def has_tokens(network: Network, block: Block) -> bool:
    """Whether the image goes into a block as tokens that can be put in another order."""
    return network.has_tokens(block)


def reorder_tokens(
    node: str,
    model: ModelPatcher,
    *,
    mode: str,
    share: float,
    seed: int,
    blocks: Sequence[Block],
) -> ModelPatcher:
    """Put a share of the image's tokens in another order on their way into blocks.

    Token perturbation guidance (Rajabi et al. 2025, arXiv 2506.10036) and self-swap guidance (Zhang
    et al. 2026, arXiv 2604.08048). Each block has an order of its own.

    Behind a block that knows the place of each token, the order is put right again. Where blocks do
    not know them, that would undo all of it; there tokens stay where they are, for the connections
    around the transformers of a U-Net, and the end of the network, to find them in the wrong place.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        mode: ``shuffle`` for a random order, another one at each noise level; ``swap`` for the most
            unlike tokens in each other's places.
        share: of the tokens that change places, above 0, up to 1.
        seed: of the random order.
        blocks: of its network; of a U-Net's, the transformers in them.
    """

    def reorder(run: Pass) -> None:
        order = _Order(mode, share, seed, run.sigma)
        if run.network.is_unet:
            _reorder_in_unet(run, order, blocks)
            return
        places = Places(run)
        Around(node, run, blocks, partial(_reorder_streams, run, order, places))
        places.watch(run)

    return weakened(node, model, blocks, reorder)


@dataclass(frozen=True)
class _Order:
    """The order of the tokens in one pass."""

    mode: str
    share: float
    seed: int
    sigma: float

    def of(self, x: Tensor, span: slice, path: str) -> Tensor:
        """For each place the one whose token goes there, ``[1 or batch, tokens]``."""
        if self.mode == SWAP:
            return perturbations.swapped_order(x, span, self.share)
        generator = generator_for("cpu", self.seed, self.sigma, path)
        return perturbations.shuffled_order(x, span, self.share, generator)


def _reorder_streams(
    run: Pass, order: _Order, places: Places, block: Block, streams: Streams, go_on: GoOn
) -> Streams:
    stream = run.network.stream_of(block)
    x = run.image_of(streams[stream])
    batched = x[None] if run.network.architecture.flat else x
    span = places.span(*batched.shape[1:]) if batched.ndim == 3 else None
    if span is None:
        return go_on(streams)
    run.reached.add(block)
    there = order.of(batched, span, block.path)

    def reordered(streams: Streams, order: Tensor) -> Streams:
        x = run.image_of(streams[stream])
        batched = x[None] if run.network.architecture.flat else x
        moved = perturbations.in_order(batched, order).view_as(x)
        return {**streams, stream: run.with_image(streams[stream], moved)}

    out = go_on(reordered(streams, there))
    if not run.network.architecture.know_places:
        return out
    return reordered(out, there.argsort(-1))


def _reorder_in_unet(run: Pass, order: _Order, blocks: Sequence[Block]) -> None:
    for block in blocks:
        for transformer in run.network.transformers(block):
            module = run.network.module_of(transformer)
            forward = partial(_on_reordered, run, order, block, transformer, module.forward)
            run.detour(module, forward)


def _on_reordered(
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
    there = order.of(x, slice(0, x.shape[1]), transformer.path)
    return original(perturbations.in_order(x, there), *args, **kwargs)
