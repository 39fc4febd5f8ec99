"""Blocks left out: what goes in comes out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..errors import bad_input
from .blocks import summary
from .network import Block, Network
from .passes import Around, GoOn, Pass, Streams, weakened
from .perturbations import generator_for

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..comfy import ModelPatcher


def can_be_skipped(network: Network, block: Block) -> bool:
    """Whether what comes out of a block is its input plus something."""
    if network.is_unet:
        return bool(network.branches(block))
    return network.can_be_replaced(block)


def skip_blocks(node: str, model: ModelPatcher, *, blocks: Sequence[Block]) -> ModelPatcher:
    """Leave blocks out: what goes in comes out.

    Skip-layer guidance (Stable Diffusion 3.5) and spatiotemporal skip guidance (Hyung et al.
    2024, arXiv 2411.18664). In a U-Net a block keeps what changes the size of the image and the
    number of its channels, and leaves out the residual branches and transformers.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        blocks: of its network.
    """

    def skip(run: Pass) -> None:
        _skip(node, run, blocks, blocks)

    return weakened(node, model, blocks, skip)


def skip_drawn_blocks(
    node: str, model: ModelPatcher, *, share: float, seed: int, blocks: Sequence[Block]
) -> ModelPatcher:
    """Leave out a few of these blocks at each step, others each time.

    Stochastic self-guidance (S², Chen et al. 2025, arXiv 2508.12880), which draws 5 to 10 % of a
    transformer's blocks, and never the first one.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        share: of the blocks, at each step; one at least. Above 0.
        seed: of the draw, which depends on it and on the noise level alone.
        blocks: of its network, without the first if that is among them.

    Raises:
        GuidanceError: where the network's first block is the only one.
    """
    network = Network.of(model)
    first = first_block(network)
    pool = [block for block in blocks if (block.group, block.index) != (first.group, first.index)]
    if not pool:
        raise bad_input(
            node,
            "blocks",
            f"{summary(blocks)}, the first of the network, which is never drawn",
            "more blocks, for example 'all'; or 1 for 'draw', which always skips it",
        )

    def skip(run: Pass) -> None:
        _skip(node, run, pool, drawn_blocks(pool, share, seed, run.sigma))

    return weakened(node, model, pool, skip)


def first_block(network: Network) -> Block:
    """The first block of a network that adds something to the image."""
    for block in network.blocks:
        if network.branches(block) if network.is_unet else network.has_image(block):
            return block
    return network.blocks[0]


def drawn_blocks(pool: Sequence[Block], share: float, seed: int, sigma: float) -> set[Block]:
    """The blocks that are skipped at a noise level."""
    count = max(1, round(share * len(pool)))
    order = torch.randperm(len(pool), generator=generator_for("cpu", seed, sigma))
    return {pool[i] for i in order[:count].tolist()}


def _skip(node: str, run: Pass, blocks: Sequence[Block], left_out: Collection[Block]) -> None:
    """Leave some of the blocks out of a pass, and note of all of them that it came to them."""
    if run.network.is_unet:
        for block in blocks:
            for layer in run.network.branches(block):
                at = partial(_at_layer, run, block, layer, layer.forward, block in left_out)
                run.detour(layer, at)
    else:
        Around(node, run, blocks, partial(_at_block, run, left_out))


def _at_block(
    run: Pass, left_out: Collection[Block], block: Block, streams: Streams, go_on: GoOn
) -> Streams:
    run.reached.add(block)
    return streams if block in left_out else go_on(streams)


def _at_layer(
    run: Pass,
    block: Block,
    layer: nn.Module,
    original: Callable[..., Tensor],
    left_out: bool,
    /,
    x: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    run.reached.add(block)
    if not left_out:
        return original(x, *args, **kwargs)
    return layer.skip_connection(x) if hasattr(layer, "skip_connection") else x
