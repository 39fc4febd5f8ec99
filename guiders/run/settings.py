"""What one node asks for: pushes away from weak models, and what becomes of the negative one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .. import comfy
from ..comfy import WrappersMP
from ..errors import bad_input
from ..models import check_pair, require_difference
from ..push.call import ANOTHER, WEAK, Conditioning, numbered
from ..push.history import History
from ..push.push import Push
from ..record.probe import Probe
from ..weaken import auto

if TYPE_CHECKING:
    from ..comfy import ModelPatcher

WRAPPER_KEY = "bad_version"


@dataclass(frozen=True)
class Names:
    """What the artist sets a push with, for messages.

    Attributes:
        node: display name of the node.
        scale: its input for how hard to push.
        model: for the weak model.
        prompt: for what the bad version sees.
        schedule: for when to push.
        shape: for what is left of the difference.
    """

    node: str
    scale: str = "weak_scale"
    model: str = "weak_model"
    prompt: str = "weak_positive"
    schedule: str = "weak_schedule"
    shape: str = "weak_shape"

    @classmethod
    def of_own_node(cls, node: str) -> Names:
        """Those of a node that sets one push and nothing else."""
        return cls(node, "scale", "weak_model", "prompt", "schedule", "shape")


@dataclass(frozen=True)
class AnotherPush:
    """One more push away from a weak model or a prompt, as a node of its own sets it.

    Attributes:
        names: of that node and its inputs.
        push: its strength, schedules and shapes.
        weak_model: the artist's, if any.
        prompt: what the bad version sees, if anything of its own.
        every: steps from one prediction of the bad version to the next.
    """

    names: Names
    push: Push
    weak_model: ModelPatcher | None = None
    prompt: Conditioning | None = None
    every: int = 1


@dataclass(frozen=True)
class HistoryPush:
    """A push away from the image's own past, as a node of its own sets it.

    Attributes:
        names: of that node and its inputs.
        push: its strength, schedules and shapes, those that are published with it included.
        history: what the past is.
    """

    names: Names
    push: Push
    history: History


@dataclass(frozen=True)
class WeakPush:
    """A push away from a weak model.

    Attributes:
        name: by which a call knows it.
        names: of the node that sets it, and of its inputs.
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

    name: str
    names: Names
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
    """All pushes, as one node of an artist sets them.

    Attributes:
        node: display name of that node, for messages.
        weak: the pushes away from weak models that are on; the node's own comes first.
        negative: schedules and shapes of the sampler's own push away from the negative prompt.
        history: the pushes away from the image's own past that are on.
        probe: where runs are recorded, if anywhere.
        show: is given a line of text now and then while sampling.
    """

    node: str
    weak: tuple[WeakPush, ...] = ()
    negative: Push = field(default_factory=Push)
    history: tuple[HistoryPush, ...] = ()
    probe: Probe | None = None
    show: Callable[[str], None] | None = None

    @property
    def pushes(self) -> bool:
        """Whether the node itself acts on the sampler."""
        return bool(self.weak) or not self.negative.is_plain or bool(self.history)

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
    more: Sequence[AnotherPush | HistoryPush] = (),
    probe: Probe | None = None,
    is_final: bool = False,
) -> Guidance:
    """Decide which pushes there are, and away from what.

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
        more: pushes that other nodes add to those.
        probe: where runs are recorded, if anywhere.
        is_final: whether no other node can change the model any more.

    Raises:
        GuidanceError: for a schedule or shape without a push, and where the two models do not fit
            together, or are the same one.
    """
    own = AnotherPush(Names(node), weak, weak_model, weak_prompt, every)
    others = [each for each in more if isinstance(each, AnotherPush)]
    _refuse_without_other(node, negative, [own, *others], has_negative=has_negative)
    named = [(WEAK, own)] if _is_asked_for(own) else []
    named += [(numbered(ANOTHER, number), each) for number, each in enumerate(others)]
    settled = [_settled(name, each, model, is_final=is_final) for name, each in named]
    return Guidance(
        node,
        tuple(each for each in settled if not each.push.is_off),
        negative,
        tuple(each for each in more if isinstance(each, HistoryPush) and not each.push.is_off),
        probe,
    )


def _is_asked_for(own: AnotherPush) -> bool:
    """Whether the node's own push is on, or has something connected that may be wrong."""
    return not own.push.is_off or own.weak_model is not None or own.prompt is not None


def _settled(name: str, asked: AnotherPush, model: ModelPatcher, *, is_final: bool) -> WeakPush:
    """One push with what it pushes away from."""
    names, push, weak_model = asked.names, asked.push, asked.weak_model
    of_whom = "" if name == WEAK else f" of {names.node}"
    has_own_prompt = asked.prompt is not None
    source, timed_by_source = "", False
    if weak_model is None and not has_own_prompt:
        made = auto.weak_version(names.node, unguided(model))
        weak_model, what, source = made.model, made.what, made.source
        # When to push is a part of the recipe, unless the artist says when.
        if made.schedules and not push.schedules:
            push, timed_by_source = replace(push, schedules=made.schedules), True
    elif has_own_prompt and (weak_model is None or weak_model is model):
        # The bad version is the model itself, but without the guidance of patches before this one.
        weak_model, what = unguided(model), f"the model with {names.prompt}{of_whom}"
    else:
        what = f"{names.model}{f' with {names.prompt}' if has_own_prompt else ''}{of_whom}"
    check_pair(names.node, model, weak_model)
    if weak_model.get_wrappers(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY):
        raise bad_input(
            names.node,
            names.model,
            "a model that is itself guided by a Bad-Version Patch, which does not act on a weak "
            "model",
            "the model from before that patch",
        )
    if is_final:
        require_difference(names.node, model, weak_model, has_own_prompt=has_own_prompt)
    return WeakPush(
        name, names, weak_model, push, what, source, timed_by_source, asked.prompt, asked.every
    )


def _refuse_without_other(
    node: str,
    negative: Push,
    asked: Sequence[AnotherPush],
    *,
    has_negative: bool,
) -> None:
    """Raise ``GuidanceError`` for a schedule or shape that needs a push which is not there."""
    is_compared = has_negative or sum(not each.push.is_off for each in asked) > 1
    connect = "something connected to 'negative' as well"
    for kind, parts in (("schedule", negative.schedules), ("shape", negative.shapes)):
        if parts and not has_negative:
            got = f"a {kind}, but there is no push that it could act on"
            raise bad_input(node, f"negative_{kind}", got, connect)
    for each in asked:
        for shape in each.push.shapes:
            if shape.needs_other_push and not is_compared:
                got = f"{shape.node}, which compares with the other push, and there is none"
                raise bad_input(each.names.node, each.names.shape, got, connect)


def unguided(model: ModelPatcher) -> ModelPatcher:
    """A clone without the guidance of any patch of this pack."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY)
    return clone
