"""The legs of guidance, as the artist's nodes set them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from comfy.patcher_extension import WrappersMP

from ..errors import bad_input
from ..models import differing_keys, name_of, set_up_alike
from ..push.call import Conditioning
from ..push.schedules import Schedule
from ..push.shapes import Shape
from ..record.probe import Probe

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WRAPPER_KEY = "bad_version"


@dataclass(frozen=True)
class Push:
    """How hard a leg pushes beside its scale, and in what shape.

    Attributes:
        schedules: their factors multiply.
        shapes: applied one after the other.
    """

    schedules: tuple[Schedule, ...] = ()
    shapes: tuple[Shape, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the scale alone says it all."""
        return not self.schedules and not self.shapes


@dataclass(frozen=True)
class WeakLeg:
    """A push away from a weak model.

    Attributes:
        weak_model: the bad version; another checkpoint, or the same base with other patches.
        scale: guidance scale ``w`` of autoguidance (arXiv 2406.02507, eq. 4); 1 is off.
        weak_positive: what the weak model sees; None for the positive conditioning of the run.
        push: schedules and shapes.
        every: the weak model predicts once in so many steps; see :class:`.carried.Carried`.
        key: under which ComfyUI finds the weak model among a main model's additional ones.
    """

    weak_model: ModelPatcher
    scale: float
    weak_positive: Conditioning | None = None
    push: Push = Push()
    every: int = 1
    key: str = field(default_factory=lambda: f"{WRAPPER_KEY}_{uuid.uuid4().hex}")

    def weak_model_of(self, main: ModelPatcher) -> ModelPatcher:
        """Find the weak model that ComfyUI loads along with ``main``.

        ComfyUI clones a model's additional models with it, so another checkpoint must be asked for;
        the same base is never loaded apart.
        """
        return next(iter(main.get_additional_models_with_key(self.key)), self.weak_model)


@dataclass(frozen=True)
class Guidance:
    """Both legs, as one node of an artist sets them.

    Attributes:
        node: display name of that node, for messages.
        weak: the weak leg, if there is one.
        negative: what becomes of the sampler's own push away from the negative prompt.
        probe: where runs are recorded, if anywhere.
        show: is given a line of text now and then while sampling.
    """

    node: str
    weak: WeakLeg | None = None
    negative: Push = Push()
    probe: Probe | None = None
    show: Callable[[str], None] | None = None

    @property
    def is_off(self) -> bool:
        """Whether there is nothing to do, and nothing to look at."""
        watched = self.probe is not None or self.show is not None
        return self.weak is None and self.negative.is_plain and not watched


def require_difference(node: str, leg: WeakLeg, main: ModelPatcher) -> None:
    """Raise :class:`GuidanceError` where the weak model is the main one with nothing changed."""
    weak = leg.weak_model_of(main)
    if (
        leg.weak_positive is None
        and weak.is_clone(main)
        and set_up_alike(main, weak)
        and not differing_keys(main, weak)
    ):
        raise bad_input(
            node,
            "weak_model",
            f"the very model that is plugged into 'model' ({name_of(main)}), with nothing changed",
            "a weaker one: a smaller, earlier or more compressed checkpoint, or the same base with "
            "other LoRAs",
        )


def unguided(model: ModelPatcher) -> ModelPatcher:
    """A clone without the guidance of any patch of this pack."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY)
    return clone
