"""What is chosen where an artist leaves the choice open: blocks, and a whole weak version."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..models import name_of
from . import passes, weights
from .blocks import Block, Network, summary

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

# Of a transformer's depth: blocks 7 to 9 of 24 in Stable Diffusion 3.5, 9 to 11 of 30 in Wan 1.3B.
_FROM, _UNTIL = 7 / 24, 10 / 24


def attention_blocks(network: Network) -> list[Block]:
    """Where to weaken self-attention.

    The middle of a U-Net (Ahn et al. 2024, arXiv 2403.17377); of a transformer the blocks that
    skip-layer guidance leaves out.
    """
    if network.is_unet:
        # Distilled ones such as SSD-1B have no attention in their middle, or no middle.
        return _with_attention(network, "middle") or _with_attention(network, "input")[-1:]
    return network.depth(_FROM, _UNTIL)


def token_blocks(network: Network) -> list[Block]:
    """Where to shuffle tokens: the two deepest blocks with attention on a U-Net's way down.

    Those are what Rajabi et al. 2025, arXiv 2506.10036, take of SDXL.
    """
    if network.is_unet:
        return _with_attention(network, "input")[-2:]
    return network.depth(_FROM, _UNTIL)


def skipped_blocks(network: Network) -> list[Block]:
    """What to leave out: the middle of a U-Net; of a transformer blocks 7 to 9 of 24."""
    if network.is_unet:
        return network.groups.get("middle") or _with_attention(network, "input")[-1:]
    return network.depth(_FROM, _UNTIL)


def weak_version(node: str, model: ModelPatcher) -> ModelPatcher:
    """Make a bad version of a model without being told how, and say so in the log.

    A U-Net gets smoothed attention in its middle, a transformer loses some blocks, and the weights
    of what is neither lose half of their rank. Of the ways to weaken a transformer itself, or its
    weights, these bring pictures nearest to real ones in docs/results.md.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
    """
    network = Network.of(model)
    attention, skipped = attention_blocks(network), skipped_blocks(network)
    if network.is_unet and attention:
        how = f"weakened self-attention in {summary(attention)}"
        weak = passes.perturb_attention(node, model, mode="blur", strength=1.0, blocks=attention)
    elif skipped and all(passes.can_be_skipped(network, block) for block in skipped):
        how = f"without {summary(skipped)}"
        weak = passes.skip_blocks(node, model, blocks=skipped)
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


def _with_attention(network: Network, group: str) -> list[Block]:
    return [block for block in network.groups.get(group, []) if network.transformers(block)]
