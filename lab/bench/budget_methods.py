"""Ways to guide at a number of passes: those of ``methods`` again, with history, and new ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from node_pack import conditioning

from .methods import (
    CLASSIFIER_FREE,
    UNGUIDED,
    Method,
    away_from_both,
    away_from_weak,
    away_from_weakened,
    classifier_free,
    in_interval,
    made_by,
)
from .studio import Inputs, Studio

if TYPE_CHECKING:
    from .kinds import Kind

# Groups: ways of the first table in other numbers, and ways that came after it.
KNOWN, NEW = "known", "new"
HISTORY = "history"
GUIDED_HISTORY = f"{CLASSIFIER_FREE}, with history"
AVERAGE = f"{HISTORY}, average"
AS_IT_COMES = f"{HISTORY}, as the node comes"
PUBLISHED = {"mode": "momentum", "scale": 1.5, "memory": 0.6}


def _together(*parts: Inputs) -> Inputs:
    """All parts at once; what each adds to ``more_pushes`` is chained."""

    def inputs(studio: Studio, label: int) -> dict[str, Any]:
        connected: dict[str, Any] = {"weak_scale": 1.0}
        for part in parts:
            made = part(studio, label)
            made["more_pushes"] = connected.get("more_pushes", ()) + made.get("more_pushes", ())
            connected |= made
        return connected

    return inputs


def _content(weak_scale: float) -> Inputs:
    """Away from the prompt without its content, the pooled vector aside."""
    return lambda studio, label: {
        "weak_positive": studio.node(
            "BadVersionWeakenPrompt",
            conditioning=conditioning(label),
            mode="content",
            amount=1.0,
            empty=studio.empty(),
        ),
        "weak_scale": weak_scale,
    }


def _history(**settings: Any) -> Inputs:
    """Away from the image's own past, as published for momentum if nothing else is said."""
    return _history_as_it_comes(**(PUBLISHED | settings))


def _history_as_it_comes(**settings: Any) -> Inputs:
    return lambda studio, label: {"more_pushes": studio.node("BadVersionHistoryPush", **settings)}


def _another_weak(name: str, scale: float) -> Inputs:
    return lambda studio, label: {
        "more_pushes": studio.node(
            "BadVersionAnotherPush", weak_model=studio.weak(name), scale=scale
        )
    }


def _another_prompt(scale: float) -> Inputs:
    """Away from what the class is most easily taken for, beside the empty prompt."""
    return lambda studio, label: {
        "more_pushes": studio.node(
            "BadVersionAnotherPush", prompt=studio.negative(label), scale=scale
        )
    }


def with_history(kind: Kind) -> list[Method]:
    """With history as published and without, on no guidance and on classifier-free guidance."""
    cfg = {"cfg": kind.scales.mild}
    return [
        Method(UNGUIDED, KNOWN, _together),
        Method(HISTORY, NEW, lambda: _together(_history())),
        Method(CLASSIFIER_FREE, KNOWN, classifier_free(), cfg),
        Method(GUIDED_HISTORY, NEW, lambda cfg: _together(classifier_free()(cfg), _history()), cfg),
    ]


def by_passes(kind: Kind) -> list[Method]:
    """Ways that cost from one pass a step to three, for one kind of images."""
    scales, best, weakest = kind.scales, kind.best, kind.weakest
    cfg, mild, one = {"cfg": scales.mild}, {"cfg": scales.mild[:2]}, {"weak_scale": scales.one[:4]}
    weak = {"weak_scale": scales.few[:3]}
    pasts = {"scale": (1.25, 1.5, 2.0), "memory": (0.3, 0.6)}
    averages = {"scale": (1.5, 2.0, 2.75), "memory": (0.25, 0.5)}
    quarters = {"cfg": scales.firm[:2], "during": ((0.25, 0.5), (0.5, 0.75))}
    halves = {"cfg": scales.mild, "during": ((0.25, 0.75), (0.5, 1.0))}
    skipping = "BadVersionWeakenBySkippingBlocks"

    def every(k: int, *more: Inputs) -> Callable[[float], Inputs]:
        return lambda weak_scale: _together(away_from_weak(best)(weak_scale, k), *more)

    def both(*more: Inputs) -> Callable[[float, float], Inputs]:
        return lambda weak_scale, cfg: _together(away_from_both(best)(weak_scale, cfg), *more)

    def settling(cfg: float, cosine: float) -> Inputs:
        stop = made_by("BadVersionStopWhenSettled", cosine=cosine)
        return classifier_free(negative_schedule=stop)(cfg)

    return [
        Method(UNGUIDED, KNOWN, _together),
        Method(HISTORY, NEW, lambda **s: _together(_history(**s)), pasts),
        Method(AS_IT_COMES, NEW, lambda: _together(_history_as_it_comes())),
        Method(AVERAGE, NEW, lambda **s: _together(_history(mode="average", **s)), averages),
        Method(
            f"{CLASSIFIER_FREE}, a quarter of the steps",
            KNOWN,
            in_interval,
            quarters,
        ),
        Method(
            f"{CLASSIFIER_FREE}, a quarter of the steps, with history",
            NEW,
            lambda cfg, during: _together(in_interval(cfg, during), _history()),
            quarters,
        ),
        Method(f"weak: {best}, every 4 steps", KNOWN, every(4), weak),
        Method(f"weak: {best}, every 4 steps, with history", NEW, every(4, _history()), weak),
        Method(
            f"{CLASSIFIER_FREE}, half of the steps",
            KNOWN,
            in_interval,
            halves,
        ),
        Method(
            f"{CLASSIFIER_FREE}, half of the steps, with history",
            NEW,
            lambda cfg, during, **s: _together(in_interval(cfg, during), _history(**s)),
            halves | {"scale": (1.5, 2.0)},
        ),
        Method(f"weak: {best}, every 2 steps", KNOWN, every(2), weak),
        Method(
            f"weak: {weakest}",
            KNOWN,
            away_from_weak(weakest),
            weak,
        ),
        Method("weakened: by skipping blocks", KNOWN, away_from_weakened(skipping), one),
        Method(
            "weakened: by skipping a block, drawn at each step",
            NEW,
            partial(away_from_weakened(skipping), blocks="all", draw=0.1),
            one,
        ),
        Method(
            "weakened: by noisy clock",
            NEW,
            away_from_weakened("BadVersionWeakenByNoisyClock"),
            one | {"strength": (1.0, 3.0)},
        ),
        Method(
            "weakened: tokens, swapped",
            NEW,
            partial(away_from_weakened("BadVersionWeakenTokens"), mode="swap", strength=0.2),
            one,
        ),
        Method(
            "weakened: content of the prompt",
            NEW,
            _content,
            {"weak_scale": scales.mild},
        ),
        Method(CLASSIFIER_FREE, KNOWN, classifier_free(), cfg),
        Method(
            GUIDED_HISTORY,
            NEW,
            lambda cfg, **s: _together(classifier_free()(cfg), _history(**s)),
            cfg | {"scale": (1.5, 2.0)},
        ),
        Method(
            f"{CLASSIFIER_FREE}, until settled",
            NEW,
            settling,
            cfg | {"cosine": (0.99, 0.999)},
        ),
        Method(f"weak: {best}", KNOWN, every(1), weak),
        Method(f"weak: {best}, with history", NEW, every(1, _history()), weak),
        Method("weak and classifier-free", KNOWN, both(), weak | mild),
        Method("weak and classifier-free, with history", NEW, both(_history()), weak | mild),
        Method(
            "two weak models",
            NEW,
            lambda weak_scale, scale: _together(
                away_from_weak(best)(weak_scale), _another_weak(weakest, scale)
            ),
            weak | {"scale": (1.25, 1.5)},
        ),
        Method(
            f"{CLASSIFIER_FREE}, and a negative prompt",
            NEW,
            lambda cfg, scale: _together(classifier_free()(cfg), _another_prompt(scale)),
            cfg | {"scale": (1.1, 1.25)},
        ),
    ]
