"""What is chosen where an artist leaves the choice open: blocks, and a whole weak version.

The choices of each architecture are in the table of :mod:`.network`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..models import name_of
from . import attention, skipping, weights
from .blocks import summary
from .network import Block, Network

if TYPE_CHECKING:
    from ..comfy import ModelPatcher


def attention_blocks(network: Network) -> list[Block]:
    """Where to weaken self-attention."""
    return network.pick(network.architecture.auto.attention)


def token_blocks(network: Network) -> list[Block]:
    """Where to shuffle tokens."""
    return network.pick(network.architecture.auto.tokens)


def skipped_blocks(network: Network) -> list[Block]:
    """What to leave out."""
    return network.pick(network.architecture.auto.skip)


def way_of(network: Network) -> str:
    """How a whole weak version of a network is made: ``attention``, ``skip`` or ``rank``."""
    attended, skipped = attention_blocks(network), skipped_blocks(network)
    can = {
        "attention": bool(attended),
        "skip": bool(skipped) and all(skipping.can_be_skipped(network, b) for b in skipped),
    }
    return next(way for way in network.architecture.auto.weak if can.get(way, True))


def weak_version(node: str, model: ModelPatcher) -> ModelPatcher:
    """Make a bad version of a model without being told how, and say so in the log.

    A U-Net gets smoothed attention in its middle, a transformer loses some blocks, and the weights
    of what is neither lose half of their rank.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
    """
    network = Network.of(model)
    way = way_of(network)
    attended, skipped = attention_blocks(network), skipped_blocks(network)
    if way == "attention":
        how = f"weakened self-attention in {summary(attended)}"
        weak = attention.perturb_attention(node, model, mode="blur", strength=1.0, blocks=attended)
    elif way == "skip":
        how = f"without {summary(skipped)}"
        weak = skipping.skip_blocks(node, model, blocks=skipped)
    else:
        how = "with half of the rank of its weights"
        keys = network.weight_keys(model, network.blocks)
        weak = weights.with_low_rank(node, model, keep=0.5, keys=keys)
    logging.info(
        "%s: nothing to push away from is connected, so %s itself, %s, is the bad version.",
        node,
        name_of(model),
        how,
    )
    return weak
