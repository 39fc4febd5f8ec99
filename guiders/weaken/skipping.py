"""Blocks left out: what goes in comes out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .network import Block, Network
from .passes import Around, GoOn, Pass, Streams, weakened

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
        if run.network.is_unet:
            _skip_in_unet(run, blocks)
        else:
            Around(node, run, blocks, partial(_hand_on, run))

    return weakened(node, model, blocks, skip)


def _hand_on(run: Pass, block: Block, streams: Streams, _: GoOn) -> Streams:
    run.reached.add(block)
    return streams


def _skip_in_unet(run: Pass, blocks: Sequence[Block]) -> None:
    for block in blocks:
        for layer in run.network.branches(block):
            run.detour(layer, partial(_without_branch, run, block, layer))


def _without_branch(
    run: Pass, block: Block, layer: nn.Module, /, x: Tensor, *_: Any, **__: Any
) -> Tensor:
    run.reached.add(block)
    return layer.skip_connection(x) if hasattr(layer, "skip_connection") else x
