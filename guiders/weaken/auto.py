"""What is chosen where an artist leaves the choice open: blocks, and a whole weak version.

What is known of a family is in :mod:`.recipes`; the choices of each architecture besides are in the
table of :mod:`.network`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..models import name_of
from ..push.schedules import Interval, Schedule
from . import attention, skipping, weights
from .blocks import choose, summary
from .network import Block, Network
from .recipes import Recipe, recipe_of

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


@dataclass(frozen=True)
class WeakVersion:
    """A bad version that a model makes of itself.

    Attributes:
        model: the weak model.
        family: of models, as artists call it.
        way: how it is weakened: ``attention``, ``skip`` or ``rank``.
        blocks: which ones, in the artist's language; "" for all weights.
        what: the two in words, for messages.
        recipe: of the model's family, if there is one.
    """

    model: ModelPatcher
    family: str
    way: str
    blocks: str
    what: str
    recipe: Recipe | None

    @property
    def source(self) -> str:
        """Who says so; "" if nobody does."""
        return "" if self.recipe is None else self.recipe.source

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """When to push away from it; empty for every step."""
        if self.recipe is None or self.recipe.is_always_on:
            return ()
        return (Interval(self.recipe.start, self.recipe.end, by_sigma=False),)


def weak_version(node: str, model: ModelPatcher) -> WeakVersion:
    """Make a bad version of a model without being told how.

    By the recipe of its family, where a source gives one. Otherwise a U-Net gets smoothed attention
    in its middle, a transformer loses some blocks, and the weights of what is neither lose half of
    their rank.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
    """
    network = Network.of(model)
    recipe = recipe_of(model)
    way, mode = way_of(network), "blur"
    attended, skipped = attention_blocks(network), skipped_blocks(network)
    if recipe is not None and recipe.way:
        way, mode = recipe.way, recipe.mode
        attended = choose(node, network, recipe.blocks, attended)
        skipped = choose(node, network, recipe.blocks, skipped)
    if way == "attention":
        blocks = summary(attended)
        weak = attention.perturb_attention(node, model, mode=mode, strength=1.0, blocks=attended)
        how = f"with self-attention weakened in {blocks}"
    elif way == "skip":
        blocks = summary(skipped)
        weak = skipping.skip_blocks(node, model, blocks=skipped)
        how = f"without {blocks}"
    else:
        blocks = ""
        keys = network.weight_keys(model, network.blocks)
        weak = weights.with_low_rank(node, model, keep=0.5, keys=keys)
        how = "with half of the rank of its weights"
    name = name_of(model)
    family = name if recipe is None else recipe.family
    return WeakVersion(weak, family, way, blocks, f"{name} {how}", recipe)
