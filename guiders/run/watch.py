"""Who looks on during a run, and what is told when it is over."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..models import changes_nothing
from ..push.call import NEGATIVE, WEAK
from ..push.push import is_off
from ..record.live_text import LiveText
from .settings import Names

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import CFGGuider
    from ..push.call import Call
    from ..push.noise import Noise
    from ..push.push import RunningPush
    from ..record.probe import Recorder
    from .running_history import RunningHistoryPush
    from .running_weak import RunningWeak
    from .settings import Guidance, WeakPush

# What the artist sets for the pushes of the guider itself, as the nodes have it.
_SCALES = {WEAK: "weak_scale", NEGATIVE: "cfg"}


class Watch:
    """Shows and records a run, if the artist wants it.

    Args:
        guidance: of the node.
        names: of all its pushes.
        latent_format: ComfyUI's, of the main model.
    """

    def __init__(self, guidance: Guidance, names: Sequence[str], latent_format: Any) -> None:
        weak = [each.what for each in guidance.weak]
        self._live = None if guidance.show is None else LiveText(guidance.show, weak)
        self._recorder: Recorder | None = None
        if guidance.probe is not None:
            further = [name for name in names if name not in _SCALES]
            self._recorder = guidance.probe.recorder(latent_format, further)

    @property
    def is_recording(self) -> bool:
        """Whether it matters how much each push adds."""
        return self._recorder is not None

    def see(self, call: Call, guided: Tensor) -> None:
        """Look at a model call, and at what the sampler gets."""
        if call.C is None:
            return
        if self._recorder is not None:
            self._recorder.call(call.sigma, call.C, guided, call.pushed)
        if self._live is not None:
            strengths = {
                _SCALES.get(name, f"{name}_scale"): each.strength
                for name, each in call.pushed.items()
            }
            self._live.call(call.sigma, call.C, guided, strengths)

    def finish(self, latent: Tensor) -> None:
        """Show the last call, and keep the record of the run that ended with ``latent``."""
        if self._live is not None:
            self._live.finish()
        if self._recorder is not None:
            self._recorder.finish(latent)


def announce(guidance: Guidance, guider: CFGGuider) -> None:
    """Say in the log which bad versions a run is pushed away from."""
    away_from = [
        f"{each.what}, {each.names.scale} {1 + each.push.strength:g}" for each in guidance.weak
    ]
    if not is_off(guider.cfg - 1):
        away_from.append(f"the negative prompt, cfg {guider.cfg:g}")
    away_from += [
        f"the image's own past, scale {1 + each.push.strength:g}" for each in guidance.history
    ]
    if away_from:
        sources = "".join(
            f" Settings from: {each.source}." for each in guidance.weak if each.source
        )
        logging.info(
            "%s: pushes away from %s.%s", guidance.node, ", and from ".join(away_from), sources
        )


def look_back(
    node: str,
    noise: Noise,
    weak: Sequence[RunningWeak],
    negative: RunningPush | None,
    history: Sequence[RunningHistoryPush],
) -> None:
    """Tell of guidance that has come to nothing in a run.

    Args:
        node: display name of the artist's node.
        noise: of the run.
        weak: the pushes away from weak models.
        negative: the one away from the negative prompt, if it has a schedule or shape.
        history: those away from the image's own past.

    Raises:
        GuidanceError: where a weak model has predicted the same as the main one all along.
    """
    for each in weak:
        _look_at_predictions(each)
    asked = [(each.settings.names, each.push, _whose_schedule(each.settings)) for each in weak]
    asked += [(each.settings.names, each.push, "it") for each in history]
    if negative is not None:
        names = Names(node, schedule="negative_schedule", shape="negative_shape")
        asked.append((names, negative, "it"))
    for names, push, whose in asked:
        if push.was_never_on:
            logging.warning(
                "%s, input '%s': %s was off at every step of this run, whose sigmas "
                "are %.4g to %.4g.",
                names.node,
                names.schedule,
                whose,
                max(noise.sigmas),
                min(noise.sigmas),
            )
        if push.saved is not None:
            logging.info(
                "%s, input '%s': the push had settled, and saved its pass, at %d of %d model "
                "calls.",
                names.node,
                names.schedule,
                *push.saved,
            )
        if push.was_never_compared:
            logging.warning(
                "%s, input '%s': it changed nothing, as the other push, which it "
                "compares with, was off at every step of this run.",
                names.node,
                names.shape,
            )


def _look_at_predictions(weak: RunningWeak) -> None:
    names = weak.settings.names
    compared, same = weak.side.same_as_main()
    if compared and same == compared:
        how = "at every step of this run its prediction was the same"
        raise changes_nothing(names.node, how, names.model)
    if same:
        logging.warning(
            "%s, input '%s': at %d of %d steps its prediction was the same as that of "
            "'model', so there was no push. If a node that skips steps by a cache is on the model, "
            "connect the model from before it to the Weaken node, or to %s.",
            names.node,
            names.model,
            same,
            compared,
            names.model,
        )


def _whose_schedule(weak: WeakPush) -> str:
    if weak.timed_by_source:
        return f"nothing is connected, and the interval of {weak.source}"
    return "it"
