"""What one node asks for: the push away from a weak model, and what becomes of the negative one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
        what: the bad version in words, for the log and the artist's node.
        source: where its settings come from, if they are not the artist's.
        timed_by_source: whether its schedules, too, come from there.
        prompt: what the weak model sees; None for the positive conditioning of the run.
        every: steps from one prediction of the weak model to the next; see
            :class:`.memory.Carried`.
        key: under which ComfyUI finds the weak model among a main model's additional ones.
    """

    model: ModelPatcher
    push: Push
    what: str
    source: str = ""
    timed_by_source: bool = False
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
        weak_model: the artist's, if any.
        weak_prompt: the artist's prompt for it, if any.
        every: steps from one prediction of the weak model to the next.
        probe: where runs are recorded, if anywhere.
        is_final: whether no other node can change the model any more.

    Raises:
        GuidanceError: for a schedule or shape without a push, and where the two models do not fit
            together, or are the same one.
    """
    if not has_negative:
        _refuse_without_negative(node, weak, negative)
    is_connected = weak_model is not None or weak_prompt is not None
    if weak.is_off and not is_connected:
        return Guidance(node, None, negative, probe)
    source, timed_by_source = "", False
    if not is_connected:
        made = auto.weak_version(node, unguided(model))
        weak_model, what, source = made.model, made.what, made.source
        # When to push is a part of the recipe, unless the artist says when.
        if made.schedules and not weak.schedules:
            weak, timed_by_source = replace(weak, schedules=made.schedules), True
    elif weak_prompt is not None and (weak_model is None or weak_model is model):
        # The bad version is the model itself, but without the guidance of patches before this one.
        weak_model, what = unguided(model), "the model with weak_positive"
    else:
        what = "weak_model" if weak_prompt is None else "weak_model with weak_positive"
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
    if weak.is_off:
        return Guidance(node, None, negative, probe)
    push = WeakPush(weak_model, weak, what, source, timed_by_source, weak_prompt, every)
    return Guidance(node, push, negative, probe)


def _refuse_without_negative(node: str, weak: Push, negative: Push) -> None:
    """Raise ``GuidanceError`` for a schedule or shape that needs a negative prompt."""
    connect = "something connected to 'negative' as well"
    for kind, parts in (("schedule", negative.schedules), ("shape", negative.shapes)):
        if parts:
            got = f"a {kind}, but there is no push that it could act on"
            raise bad_input(node, f"negative_{kind}", got, connect)
    for shape in weak.shapes:
        if shape.needs_other_push:
            got = f"{shape.node}, which compares with the other push, and there is none"
            raise bad_input(node, "weak_shape", got, connect)


def unguided(model: ModelPatcher) -> ModelPatcher:
    """A clone without the guidance of any patch of this pack."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY)
    return clone
