"""What one node asks for: the push away from a weak model, and what becomes of the negative one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import comfy
from ..comfy import WrappersMP
from ..errors import bad_input
from ..models import check_pair, require_difference
from ..push.call import Conditioning
from ..push.push import Push
from ..record.probe import Probe
from ..weaken import auto

if TYPE_CHECKING:
    from ..comfy import ModelPatcher

WRAPPER_KEY = "bad_version"


@dataclass(frozen=True)
class WeakPush:
    """A push away from a weak model.

    Attributes:
        model: the bad version; another checkpoint, or the same base with other patches.
        push: its strength, schedules and shapes.
        prompt: what the weak model sees; None for the positive conditioning of the run.
        every: steps from one prediction of the weak model to the next; see
            :class:`.memory.Carried`.
        key: under which ComfyUI finds the weak model among a main model's additional ones.
    """

    model: ModelPatcher
    push: Push
    prompt: Conditioning | None = None
    every: int = 1
    key: str = field(default_factory=lambda: f"{WRAPPER_KEY}_{uuid.uuid4().hex}")

    def model_beside(self, main: ModelPatcher) -> ModelPatcher:
        """Find the weak model that ComfyUI loads along with ``main``.

        ComfyUI clones a model's additional models with it, so another checkpoint must be asked for;
        the same base is never loaded apart.
        """
        found = next(iter(main.get_additional_models_with_key(self.key)), self.model)
        return comfy.delegate_beside(main, found)


@dataclass(frozen=True)
class Guidance:
    """Both pushes, as one node of an artist sets them.

    Attributes:
        node: display name of that node, for messages.
        weak: the push away from a weak model, if there is one and it is on.
        negative: schedules and shapes of the sampler's own push away from the negative prompt.
        probe: where runs are recorded, if anywhere.
        show: is given a line of text now and then while sampling.
    """

    node: str
    weak: WeakPush | None = None
    negative: Push = field(default_factory=Push)
    probe: Probe | None = None
    show: Callable[[str], None] | None = None

    @property
    def pushes(self) -> bool:
        """Whether the node itself acts on the sampler."""
        return self.weak is not None or not self.negative.is_plain

    @property
    def is_off(self) -> bool:
        """Whether there is nothing to do, and nothing to look at."""
        return not self.pushes and self.probe is None and self.show is None


def settle(
    node: str,
    model: ModelPatcher,
    weak: Push,
    negative: Push,
    *,
    has_negative: bool,
    negative_is_enough: bool,
    weak_model: ModelPatcher | None = None,
    weak_prompt: Conditioning | None = None,
    every: int = 1,
    probe: Probe | None = None,
    is_final: bool = False,
) -> Guidance:
    """Decide whether there is a push away from a weak model, and from which one.

    With neither a weak model nor a prompt for it, the model itself is weakened. A push that is off
    leaves no trace, so that the weak model is not even loaded.

    Args:
        node: display name of the artist's node.
        model: the main model.
        weak: strength, schedules and shapes of the push away from the weak model.
        negative: schedules and shapes of the sampler's push away from the negative prompt.
        has_negative: whether there is a negative prompt to push away from.
        negative_is_enough: whether the artist who connects nothing for a weak model wants none.
        weak_model: the artist's, if any.
        weak_prompt: the artist's prompt for it, if any.
        every: steps from one prediction of the weak model to the next.
        probe: where runs are recorded, if anywhere.
        is_final: whether no other node can change the model any more.

    Raises:
        GuidanceError: for a schedule or shape without a push, and where the two models do not fit
            together, or are the same one.
    """
    is_connected = weak_model is not None or weak_prompt is not None
    is_wanted = is_connected or not negative_is_enough
    _require_pushes(node, weak, is_wanted, negative, has_negative)
    if not is_wanted or (weak.is_off and not is_connected):
        return Guidance(node, None, negative, probe)
    if not is_connected:
        weak_model = auto.weak_version(node, model)
    elif weak_prompt is not None and (weak_model is None or weak_model is model):
        # The bad version is the model itself, but without the guidance of patches before this one.
        weak_model = unguided(model)
    check_pair(node, model, weak_model)
    if weak_model.get_wrappers(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY):
        raise bad_input(
            node,
            "weak_model",
            "a model that is itself guided by a Bad-Version Patch, which does not act on a weak "
            "model",
            "the model from before that patch",
        )
    if is_final:
        require_difference(node, model, weak_model, has_own_prompt=weak_prompt is not None)
    push = None if weak.is_off else WeakPush(weak_model, weak, weak_prompt, every)
    return Guidance(node, push, negative, probe)


def _require_pushes(
    node: str, weak: Push, has_weak: bool, negative: Push, has_negative: bool
) -> None:
    """Raise ``GuidanceError`` for a schedule or shape that has no push to act on."""
    connect = {"weak": "'weak_model' or 'weak_positive'", "negative": "'negative'"}
    for name, push, is_there, other, has_other in (
        ("weak", weak, has_weak, "negative", has_negative),
        ("negative", negative, has_negative, "weak", has_weak),
    ):
        for kind, parts in (("schedule", push.schedules), ("shape", push.shapes)):
            if parts and not is_there:
                raise bad_input(
                    node,
                    f"{name}_{kind}",
                    f"a {kind}, but there is no push that it could act on",
                    f"something connected to {connect[name]} as well",
                )
        for shape in push.shapes:
            if shape.needs_other_push and not has_other:
                raise bad_input(
                    node,
                    f"{name}_shape",
                    f"{shape.node}, which compares with the other push, and there is none",
                    f"something connected to {connect[other]} as well",
                )


def unguided(model: ModelPatcher) -> ModelPatcher:
    """A clone without the guidance of any patch of this pack."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY)
    return clone
