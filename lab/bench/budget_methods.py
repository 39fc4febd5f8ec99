"""Ways to guide at a number of passes: those of ``methods`` again, with history, and new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node_pack import conditioning

from .methods import CLASSIFIER_FREE, UNGUIDED, Method
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

# One part of the inputs of the guider; those of several parts are put together.
Part = Callable[[Studio, int], dict[str, Any]]


def _together(*parts: Part) -> Inputs:
    """All parts at once; what each adds to ``more_pushes`` is chained."""

    def inputs(studio: Studio, label: int) -> dict[str, Any]:
        connected: dict[str, Any] = {"weak_scale": 1.0}
        for part in parts:
            made = part(studio, label)
            made["more_pushes"] = connected.get("more_pushes", ()) + made.get("more_pushes", ())
            connected |= made
        return connected

    return inputs


def _cfg(scale: float, during: tuple[float, float] | None = None) -> Part:
    """Classifier-free guidance, in an interval, or with another schedule."""

    def part(studio: Studio, label: int) -> dict[str, Any]:
        made = {"negative": studio.empty(), "cfg": scale}
        if during:
            made["negative_schedule"] = _interval(studio, during)
        return made

    return part


def _interval(studio: Studio, during: tuple[float, float]) -> Any:
    start, end = during
    return studio.node("BadVersionGuidanceInterval", start=start, end=end)


def _settling(scale: float, cosine: float) -> Part:
    """Classifier-free guidance that stops when it has settled."""
    return lambda studio, label: {
        "negative": studio.empty(),
        "cfg": scale,
        "negative_schedule": studio.node("BadVersionStopWhenSettled", cosine=cosine),
    }


def _weak(name: str, scale: float, every: int = 1) -> Part:
    """Away from another checkpoint."""
    return lambda studio, label: {
        "weak_model": studio.weak(name),
        "weak_scale": scale,
        "weak_every": every,
    }


def _weakened(node_id: str, scale: float, **strength: Any) -> Part:
    """Away from the model itself as a Weaken node makes it."""
    return lambda studio, label: {
        "weak_model": studio.weakened(node_id, **strength),
        "weak_scale": scale,
    }


def _content(scale: float) -> Part:
    """Away from the prompt without its content, the pooled vector aside."""
    return lambda studio, label: {
        "weak_positive": studio.node(
            "BadVersionWeakenPrompt",
            conditioning=conditioning(label),
            mode="content",
            amount=1.0,
            empty=studio.empty(),
        ),
        "weak_scale": scale,
    }


def _history(**settings: Any) -> Part:
    """Away from the image's own past, as published for momentum if nothing else is said."""
    inputs = PUBLISHED | settings
    return lambda studio, label: {"more_pushes": studio.node("BadVersionHistoryPush", **inputs)}


def _history_as_it_comes(studio: Studio, label: int) -> dict[str, Any]:
    return {"more_pushes": studio.node("BadVersionHistoryPush")}


def _another_weak(name: str, scale: float) -> Part:
    return lambda studio, label: {
        "more_pushes": studio.node(
            "BadVersionAnotherPush", weak_model=studio.weak(name), scale=scale
        )
    }


def _another_prompt(scale: float) -> Part:
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
        Method(UNGUIDED, KNOWN, lambda: _together()),
        Method(HISTORY, NEW, lambda: _together(_history())),
        Method(CLASSIFIER_FREE, KNOWN, lambda cfg: _together(_cfg(cfg)), cfg),
        Method(GUIDED_HISTORY, NEW, lambda cfg: _together(_cfg(cfg), _history()), cfg),
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

    def every(k: int, *more: Part) -> Callable[[float], Inputs]:
        return lambda weak_scale: _together(_weak(best, weak_scale, k), *more)

    def weakened(node_id: str, **fixed: Any) -> Callable[..., Inputs]:
        return lambda weak_scale, **chosen: _together(
            _weakened(node_id, weak_scale, **fixed, **chosen)
        )

    return [
        Method(UNGUIDED, KNOWN, lambda: _together()),
        Method(HISTORY, NEW, lambda **s: _together(_history(**s)), pasts),
        Method(AS_IT_COMES, NEW, lambda: _together(_history_as_it_comes)),
        Method(AVERAGE, NEW, lambda **s: _together(_history(mode="average", **s)), averages),
        Method(
            f"{CLASSIFIER_FREE}, a quarter of the steps",
            KNOWN,
            lambda cfg, during: _together(_cfg(cfg, during)),
            quarters,
        ),
        Method(
            f"{CLASSIFIER_FREE}, a quarter of the steps, with history",
            NEW,
            lambda cfg, during: _together(_cfg(cfg, during), _history()),
            quarters,
        ),
        Method(f"weak: {best}, every 4 steps", KNOWN, every(4), weak),
        Method(f"weak: {best}, every 4 steps, with history", NEW, every(4, _history()), weak),
        Method(
            f"{CLASSIFIER_FREE}, half of the steps",
            KNOWN,
            lambda cfg, during: _together(_cfg(cfg, during)),
            halves,
        ),
        Method(
            f"{CLASSIFIER_FREE}, half of the steps, with history",
            NEW,
            lambda cfg, during, **s: _together(_cfg(cfg, during), _history(**s)),
            halves | {"scale": (1.5, 2.0)},
        ),
        Method(f"weak: {best}, every 2 steps", KNOWN, every(2), weak),
        Method(
            f"weak: {weakest}",
            KNOWN,
            lambda weak_scale: _together(_weak(weakest, weak_scale)),
            weak,
        ),
        Method("weakened: by skipping blocks", KNOWN, weakened(skipping), one),
        Method(
            "weakened: by skipping a block, drawn at each step",
            NEW,
            weakened(skipping, blocks="all", draw=0.1),
            one,
        ),
        Method(
            "weakened: by noisy clock",
            NEW,
            weakened("BadVersionWeakenByNoisyClock"),
            one | {"strength": (1.0, 3.0)},
        ),
        Method(
            "weakened: tokens, swapped",
            NEW,
            weakened("BadVersionWeakenTokens", mode="swap", strength=0.2),
            one,
        ),
        Method(
            "weakened: content of the prompt",
            NEW,
            lambda weak_scale: _together(_content(weak_scale)),
            {"weak_scale": scales.mild},
        ),
        Method(CLASSIFIER_FREE, KNOWN, lambda cfg: _together(_cfg(cfg)), cfg),
        Method(
            GUIDED_HISTORY,
            NEW,
            lambda cfg, **s: _together(_cfg(cfg), _history(**s)),
            cfg | {"scale": (1.5, 2.0)},
        ),
        Method(
            f"{CLASSIFIER_FREE}, until settled",
            NEW,
            lambda cfg, cosine: _together(_settling(cfg, cosine)),
            cfg | {"cosine": (0.99, 0.999)},
        ),
        Method(f"weak: {best}", KNOWN, every(1), weak),
        Method(f"weak: {best}, with history", NEW, every(1, _history()), weak),
        Method("weak and classifier-free", KNOWN, _both(best), weak | mild),
        Method("weak and classifier-free, with history", NEW, _both(best, _history()), weak | mild),
        Method(
            "two weak models",
            NEW,
            lambda weak_scale, scale: _together(
                _weak(best, weak_scale), _another_weak(weakest, scale)
            ),
            weak | {"scale": (1.25, 1.5)},
        ),
        Method(
            f"{CLASSIFIER_FREE}, and a negative prompt",
            NEW,
            lambda cfg, scale: _together(_cfg(cfg), _another_prompt(scale)),
            cfg | {"scale": (1.1, 1.25)},
        ),
    ]


def _both(name: str, *more: Part) -> Callable[[float, float], Inputs]:
    return lambda weak_scale, cfg: _together(_weak(name, weak_scale), _cfg(cfg), *more)
