"""Draw digits through the nodes, as a graph would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from comfyui.running import call, untouched
from digits.sampling import load_models, sample_latent
from node_pack import DIGIT_CLASSES

ASSETS = Path(__file__).parents[1] / "assets"
EMPTY = "none"


class Drawing:
    """The digit models, and images drawn with them.

    Args:
        nodes: all node classes by node id.
        pictures: how many are drawn in a run.
    """

    def __init__(self, nodes: Mapping[str, type], pictures: int) -> None:
        self._nodes = nodes
        self._pictures = pictures
        self.models = load_models(ASSETS)

    def node(self, node_id: str, **inputs: Any) -> Any:
        """The first output of a node; inputs that are not given are as the node comes."""
        node = self._nodes[node_id]
        return call(node, **{**untouched(node), **inputs})[0]

    def without(self, digit: int, cfg: float, **pushes: Any) -> Tensor:
        """Draw digits of any kind but one, [n, 64, 64, 3].

        Args:
            digit: the negative prompt.
            cfg: scale of the push away from it.
            pushes: inputs of Bad-Version Patch.
        """
        model = self.models.main
        if pushes:
            model = self.node("BadVersionPatch", model=model, weak_scale=1.0, **pushes)
        # The tracked posterior is that of ancestral sampling.
        return self._sample(model, EMPTY, DIGIT_CLASSES[digit], cfg, "euler_ancestral", 0)

    def each(
        self,
        model: ModelPatcher,
        cfg: float = 1.0,
        negative: Callable[[int], str] = lambda digit: EMPTY,
    ) -> Tensor:
        """Draw as many of each digit, [n, 64, 64, 3], sorted by digit.

        Args:
            model: the main model, guided or not.
            cfg: scale of the push away from the negative prompt.
            negative: that of each digit.
        """
        drawn = [
            self._sample(model, DIGIT_CLASSES[digit], negative(digit), cfg, "euler", digit)
            for digit in range(10)
        ]
        return torch.cat(drawn)

    @torch.inference_mode()
    def _sample(
        self, model: ModelPatcher, positive: str, negative: str, cfg: float, sampler: str, seed: int
    ) -> Tensor:
        count = self._pictures if positive == EMPTY else self._pictures // 10
        latent = torch.zeros(count, 16, 8, 8)
        samples = sample_latent(
            model, latent, positive, negative, seed=seed, cfg=cfg, sampler=sampler
        )
        return self.models.vae.decode(samples)
