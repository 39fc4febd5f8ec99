"""What is done to the difference ``C − R`` of a push before it is added.

Shapes stand in the order in which an artist has chained them. Each one is started anew for each
run, so that what some remember ends with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from uuid import uuid4

from torch import Size, Tensor

from ..errors import bad_input
from . import formulas
from .call import Conditioning, RunningShape, Step
from .memory import Trajectory
from .noise import Noise


class Shape(ABC):
    """One way to change the difference of a push.

    Attributes:
        node: display name of the artist's node.
        needs_other_push: whether it compares with the other push of the guider.
        needs_image: whether it needs latents with height and width.
        prompts: conditionings for which it needs the main model's prediction, by the name under
            which it asks a step for it.
    """

    node = "Shape"
    needs_other_push = False
    needs_image = False
    prompts: Mapping[str, Conditioning] = MappingProxyType({})

    @abstractmethod
    def start(self, noise: Noise) -> RunningShape:
        """Begin a run."""


@dataclass(frozen=True)
class Projected(Shape):
    """Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416): average, cap, project.

    Attributes:
        eta: ``η``, what remains of the part that is parallel to the prediction.
        norm_threshold: ``r``, how long the difference may be; 0 for no limit.
        momentum: ``β``, weight of the average of earlier steps; 0 for none.
    """

    eta: float
    norm_threshold: float
    momentum: float

    node = "Projected Shape (APG)"

    def start(self, noise: Noise) -> RunningShape:
        """Begin with no momentum."""
        trajectory: Trajectory[Tensor] = Trajectory(noise.sigmas)

        def shape(delta: Tensor, step: Step, strength: formulas.Strength) -> Tensor:
            if self.momentum != 0:
                before = trajectory.before(step.level, delta)
                delta = formulas.with_momentum(delta, before, self.momentum)
                trajectory.visit(step.level, delta)
            if self.norm_threshold > 0:
                delta = formulas.capped(delta, self.norm_threshold)
            return delta if self.eta == 1 else formulas.projected(delta, step.C, self.eta)

        return shape


@dataclass(frozen=True)
class Reject(Shape):
    """Compare with the direction of the other push, and drop or keep what both have in common.

    Attributes:
        keep: "different" for what is orthogonal to the other push, "common" for what lies along it.
    """

    keep: str

    node = "Reject Shape"
    needs_other_push = True

    def start(self, noise: Noise) -> RunningShape:
        """Begin a run; nothing is remembered."""
        formula = {"different": formulas.rejected, "common": formulas.kept_along}[self.keep]

        def shape(delta: Tensor, step: Step, strength: formulas.Strength) -> Tensor:
            other = step.other()
            return delta if other is None else formula(delta, other)

        return shape


@dataclass(frozen=True)
class Cap(Shape):
    """Keep the difference from being longer than a number, or than a ratio of the other push's.

    Attributes:
        limit: the number, or the ratio.
        of_other_push: which of the two it is.
    """

    limit: float
    of_other_push: bool

    node = "Cap Shape"

    @property
    def needs_other_push(self) -> bool:
        """Whether the limit is a ratio."""
        return self.of_other_push

    def start(self, noise: Noise) -> RunningShape:
        """Begin a run; nothing is remembered."""

        def shape(delta: Tensor, step: Step, strength: formulas.Strength) -> Tensor:
            if not self.of_other_push:
                return formulas.capped(delta, self.limit)
            other = step.other()
            return (
                delta
                if other is None
                else formulas.capped(delta, self.limit * formulas.norm(other))
            )

        return shape


@dataclass(frozen=True)
class Rescale(Shape):
    """Take back the contrast that this push adds (Lin et al. 2023, arXiv 2305.08891).

    Attributes:
        phi: ``φ``, how much of it, 0 to 1.
    """

    phi: float

    node = "Rescale Shape"

    def start(self, noise: Noise) -> RunningShape:
        """Begin a run; nothing is remembered."""
        return lambda delta, step, strength: formulas.rescaled(delta, step.C, strength, self.phi)


@dataclass(frozen=True)
class ZeroStar(Shape):
    """Scale the bad version so that its velocity fits the main one best (arXiv 2503.18886)."""

    node = "CFG-Zero* Shape"

    def start(self, noise: Noise) -> RunningShape:
        """Begin a run; nothing is remembered."""
        return lambda delta, step, strength: formulas.zero_star(delta, step.x, step.C)


@dataclass(frozen=True)
class PerpNeg(Shape):
    """Push away only from what is not in the positive prompt (arXiv 2304.04968).

    Attributes:
        empty: conditioning of an empty prompt, encoded for the main model.
        weight: how much of the negative prompt counts.
    """

    empty: Conditioning
    weight: float
    # Of this one alone: two of these shapes may have two empty prompts.
    _name: str = field(default_factory=lambda: f"empty {uuid4().hex}", repr=False, compare=False)

    node = "Perp-Neg Shape"

    @property
    def prompts(self) -> Mapping[str, Conditioning]:
        """The empty prompt."""
        return {self._name: self.empty}

    def start(self, noise: Noise) -> RunningShape:
        """Begin a run; nothing is remembered."""

        def shape(delta: Tensor, step: Step, strength: formulas.Strength) -> Tensor:
            U = step.predict(self._name)
            return formulas.perp_neg(delta, step.C, U, strength, self.weight)

        return shape


@dataclass(frozen=True)
class Frequency(Shape):
    """Scale the coarse and the fine of the difference apart (arXiv 2506.19713).

    Attributes:
        low: factor for layout and colour.
        high: factor for outlines and texture.
        levels: how many octaves count as fine.
    """

    low: float
    high: float
    levels: int

    node = "Frequency Shape"
    needs_image = True

    def start(self, noise: Noise) -> RunningShape:
        """Begin a run; nothing is remembered."""

        def shape(delta: Tensor, step: Step, strength: formulas.Strength) -> Tensor:
            _require_image(self, "shape", delta, "has no such frequencies")
            return formulas.frequencies(delta, self.low, self.high, self.levels)

        return shape


@dataclass(frozen=True)
class HighPass(Shape):
    """Leave the coarse waves of the difference out; a part of HiGS (arXiv 2509.22300).

    Attributes:
        cutoff: where half of a wave stays, as a share of the finest.
    """

    cutoff: float

    def start(self, noise: Noise) -> RunningShape:
        """Begin a run; nothing is remembered."""
        return lambda delta, step, strength: formulas.high_passed(delta, self.cutoff)


@dataclass(frozen=True, eq=False)
class Region(Shape):
    """Push in a part of the image only.

    Attributes:
        mask: ``[masks, height, width]``, 0 to 1, of any size; of floating point.
        feather: how wide its soft edges are, in pixels of the mask.
        outside: how much of the push stays outside, 0 to 1.
    """

    mask: Tensor
    feather: int
    outside: float

    node = "Region Shape"
    needs_image = True

    @property
    def is_everywhere(self) -> bool:
        """Whether all of the push stays, so that this shape is off."""
        return self.outside == 1 or bool((self.mask >= 1).all())

    def start(self, noise: Noise) -> RunningShape:
        """Begin a run; the mask is fitted once to each size of latents."""
        if self.is_everywhere:
            return lambda delta, step, strength: delta
        # Beside a video, sound has no place in it, though its latents may have two sides as well.
        least = max((len(part) for part in noise.parts), default=0) + 1
        fitted: tuple[Size, Tensor] | None = None

        def shape(delta: Tensor, step: Step, strength: formulas.Strength) -> Tensor:
            nonlocal fitted
            if delta.ndim < least:
                return delta
            _require_image(self, "mask", delta, "has no places")
            if fitted is None or fitted[0] != delta.shape:
                weight = formulas.region(self.mask, delta.shape, self.feather, self.outside)
                fitted = delta.shape, weight.to(delta)
            return delta * fitted[1]

        return shape


def _require_image(shape: Shape, name: str, delta: Tensor, sound: str) -> None:
    """Raise ``GuidanceError`` for latents without height and width; ``sound``: what it lacks."""
    if delta.ndim < 4:
        raise bad_input(
            shape.node,
            name,
            f"a latent of the shape {tuple(delta.shape)}, without height and width",
            f"images or videos; sound without height and width {sound}",
        )
