"""Who looks on during a run, and what is told when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..models import changes_nothing
from ..push.push import is_off
from ..record.live_text import LiveText

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import CFGGuider
    from ..push.call import Call
    from ..push.noise import Noise
    from ..push.push import RunningPush
    from ..record.probe import Recorder
    from .settings import Guidance
    from .side_run import SideRun

# What the artist sets for each push, as the nodes have it.
_SCALES = {"weak": "weak_scale", "negative": "cfg"}


class Watch:
    """Shows and records a run, if the artist wants it.

    Args:
        guidance: of the node.
        latent_format: ComfyUI's, of the main model.
    """

    def __init__(self, guidance: Guidance, latent_format: Any) -> None:
        weak = "" if guidance.weak is None else guidance.weak.what
        self._live = None if guidance.show is None else LiveText(guidance.show, weak)
        self._recorder: Recorder | None = None
        if guidance.probe is not None:
            self._recorder = guidance.probe.recorder(latent_format)

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
            strengths = {_SCALES[name]: each.strength for name, each in call.pushed.items()}
            self._live.call(call.sigma, call.C, guided, strengths)

    def finish(self, latent: Tensor) -> None:
        """Show the last call, and keep the record of the run that ended with ``latent``."""
        if self._live is not None:
            self._live.finish()
        if self._recorder is not None:
            self._recorder.finish(latent)


def announce(guidance: Guidance, guider: CFGGuider) -> None:
    """Say in the log which bad versions a run is pushed away from."""
    away_from = []
    weak = guidance.weak
    if weak is not None:
        away_from.append(f"{weak.what}, weak_scale {1 + weak.push.strength:g}")
    if not is_off(guider.cfg - 1):
        away_from.append(f"the negative prompt, cfg {guider.cfg:g}")
    if away_from:
        source = f" Settings from: {weak.source}." if weak and weak.source else ""
        logging.info(
            "%s: pushes away from %s.%s", guidance.node, ", and from ".join(away_from), source
        )


def look_back(
    guidance: Guidance, noise: Noise, pushes: Iterable[RunningPush], weak: SideRun | None
) -> None:
    """Tell of guidance that has come to nothing in a run.

    Args:
        guidance: of the node.
        noise: of the run.
        pushes: all that have a schedule or shape.
        weak: what has predicted for the weak model.

    Raises:
        GuidanceError: where the weak model has predicted the same as the main one all along.
    """
    node = guidance.node
    compared, same = (0, 0) if weak is None else weak.same_as_main()
    if compared and same == compared:
        raise changes_nothing(node, "at every step of this run its prediction was the same")
    if same:
        logging.warning(
            "%s, input 'weak_model': at %d of %d steps its prediction was the same as that of "
            "'model', so there was no push. If a node that skips steps by a cache is on the model, "
            "connect the model from before it to the Weaken node, or to weak_model.",
            node,
            same,
            compared,
        )
    for push in pushes:
        if push.was_never_on:
            logging.warning(
                "%s, input '%s_schedule': %s was off at every step of this run, whose sigmas "
                "are %.4g to %.4g.",
                node,
                push.name,
                _whose_schedule(guidance, push),
                max(noise.sigmas),
                min(noise.sigmas),
            )
        if push.was_never_compared:
            logging.warning(
                "%s, input '%s_shape': it changed nothing, as the other push, which it "
                "compares with, was off at every step of this run.",
                node,
                push.name,
            )


def _whose_schedule(guidance: Guidance, push: RunningPush) -> str:
    weak = guidance.weak
    if weak is not None and weak.timed_by_source and push.push is weak.push:
        return f"nothing is connected, and the interval of {weak.source}"
    return "it"
