"""Noise on what the network is told about the noise level."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import perturbations
from .network import WHOLE, Network
from .passes import Pass, weakened
from .perturbations import generator_for

if TYPE_CHECKING:
    from torch import nn

    from ..comfy import ModelPatcher


def has_clock(network: Network) -> bool:
    """Whether it is known where a network embeds the noise level."""
    return bool(network.clocks)


def make_clock_noisy(
    node: str, model: ModelPatcher, *, strength: float, power: float, seed: int
) -> ModelPatcher:
    """Add noise to the embedding of the noise level: ``e + s·t^α·std(e)·n``.

    Time step guidance (Sadat et al. 2024, arXiv 2407.02687). ``t`` is the noise level, 0 to 1. Each
    noise level and each embedding has noise of its own, the same for the same seed.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched; its network has a clock.
        strength: ``s``, the noise relative to the embedding's own spread; above 0.
        power: ``α``, how fast it falls as the image clears; 0 for the same noise all along.
        seed: of the noise.
    """

    def disturb(run: Pass) -> None:
        clock = _Clock(run, strength * run.time**power, seed, run.sigma)
        for path, module in run.network.clocks.items():
            hook = module.register_forward_hook(partial(clock.after, path))
            run.undo.callback(hook.remove)

    return weakened(node, model, [WHOLE], disturb)


@dataclass(frozen=True)
class _Clock:
    """The noise of one pass."""

    run: Pass
    amount: float
    seed: int
    sigma: float

    def after(self, path: str, _: nn.Module, __: tuple[Any, ...], out: Any) -> Any:
        """Hook behind a module that embeds the noise level."""
        self.run.reached.add(WHOLE)
        if isinstance(out, Tensor):
            return self._disturbed(out, path)
        # Of Cosmos: one for the modulation of each block, and one that is added to it.
        return type(out)(
            self._disturbed(each, path, i) if isinstance(each, Tensor) else each
            for i, each in enumerate(out)
        )

    def _disturbed(self, embedding: Tensor, *where: object) -> Tensor:
        generator = generator_for("cpu", self.seed, self.sigma, *where)
        return perturbations.noisy_embedding(embedding, self.amount, generator)
