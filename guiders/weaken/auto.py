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


def weak_version(node: str, model: ModelPatcher) -> ModelPatcher:
    """Make a bad version of a model without being told how, and say so in the log.

    A U-Net gets smoothed attention in its middle, a transformer loses some blocks, and the weights
    of what is neither lose half of their rank.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
    """
    network = Network.of(model)
    ways = network.architecture.auto.weak
    attended, skipped = attention_blocks(network), skipped_blocks(network)
    can_skip = skipped and all(skipping.can_be_skipped(network, block) for block in skipped)
    way = next(w for w in ways if {"attention": attended, "skip": can_skip}.get(w, True))
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
