"""Activations dropped in front of weight matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import perturbations
from .network import Block
from .passes import Pass, weakened
from .perturbations import generator_for

if TYPE_CHECKING:
    from torch import nn

    from ..comfy import ModelPatcher


def drop_activations(
    node: str, model: ModelPatcher, *, rate: float, seed: int, blocks: Sequence[Block]
) -> ModelPatcher:
    """Drop a share of the activations in front of every weight matrix inside blocks.

    Dropout, the corruption of the autoguidance paper (Karras et al. 2024, arXiv 2406.02507, section
    4). Each noise level has a mask of its own, the same for the same seed. What is not a sequence
    of tokens or a feature map, such as the embedding of the noise level, is left alone.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        rate: share that is dropped, above 0, below 1.
        seed: of the masks.
        blocks: of its network.
    """

    def drop(run: Pass) -> None:
        # A sequence without a dimension for the batch is at least as long as the image.
        least = math.prod(run.network.grid(run.shape)) if run.network.architecture.flat else None
        dropout = _Dropout(run, rate, seed, run.sigma, least)
        for block in blocks:
            for name, module in run.network.module_of(block).named_modules():
                if getattr(getattr(module, "weight", None), "ndim", 0) >= 2:
                    hook = partial(dropout.before, block, f"{block.path}.{name}")
                    run.undo.callback(module.register_forward_pre_hook(hook).remove)

    return weakened(node, model, blocks, drop)


@dataclass(frozen=True)
class _Dropout:
    """The masks of one pass."""

    run: Pass
    rate: float
    seed: int
    sigma: float
    least: int | None

    def before(
        self, block: Block, path: str, _: nn.Module, args: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        """Hook in front of a layer with a weight matrix."""
        x = args[0] if args else None
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return None
        flat = x.ndim == 2 and self.least is not None and len(x) >= self.least
        if x.ndim < 3 and not flat:
            return None
        self.run.reached.add(block)
        generator = generator_for(x.device, self.seed, self.sigma, path)
        batched = x[None] if flat else x
        dropped = perturbations.drop_activations(batched, self.rate, generator)
        return (dropped.view_as(x), *args[1:])
