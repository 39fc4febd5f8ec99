"""The figures of Guidance Plot: what probes have recorded, over the model calls of a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..guiders.push.call import NEGATIVE, WEAK
from ..guiders.record.probe import PushReadings, Record
from .drawing.axes import Axes, axis, legend, ticks
from .drawing.canvas import Box, Canvas
from .drawing.fonts import LINE_HEIGHT, wrapped
from .drawing.style import MUTED, PANEL, SERIES, TEXT

# A node shows it half as large, and letters must still be legible.
_TYPE, _TITLE = 26, 30
_COLUMN, _PLOT_HEIGHT = 768, 270
_MARGIN = 24
# Around a plot: for its numbers and words.
_LEFT, _RIGHT, _ABOVE, _BELOW = 112, 56, 2.7 * _TITLE, 3.9 * _TYPE
_LABELS = 6

_OF_PUSH = {WEAK: SERIES[0], NEGATIVE: SERIES[1]}
_OF_FURTHER = (SERIES[2], SERIES[4], SERIES[5])
_OF_BOTH, _OF_MEAN, _OF_STD = SERIES[3], SERIES[4], SERIES[5]

_WORDS = {
    "en": {
        "scale": "scale in use, 1 is off",
        "push": "length of the push, in % of the prediction",
        "cosine": "cosine of the differences",
        "along": "share of the push along the prediction",
        "shift": "shift of the latent channels",
        "posterior": "probability of the negative prompt",
        "weak": "weak model",
        "negative": "negative prompt",
        "another": "another push",
        "history": "history",
        "before": "{}, before scale and shape",
        "whole": "all together",
        "with C": "{} and prediction",
        "both": "weak and negative",
        "mean": "mean",
        "std": "standard deviation",
        "nothing": "None of this was recorded.",
        "sigma": "sigma at each model call",
        "C": "prediction",
        "guided": "guided",
        "no images": "These latents are not images.",
    },
    "zh": {
        "scale": "实际引导强度，1 为关闭",
        "push": "推力长度，占预测的百分比",
        "cosine": "差异的余弦",
        "along": "推力中沿预测方向的比例",
        "shift": "Latent 各通道的偏移",
        "posterior": "负面提示词的概率",
        "weak": "弱模型",
        "negative": "负面提示词",
        "another": "另一推力",
        "history": "历史",
        "before": "{}，应用引导强度和形状之前",
        "whole": "全部合计",
        "with C": "{}与预测",
        "both": "弱模型与负面",
        "mean": "均值",
        "std": "标准差",
        "nothing": "没有记录到这一项。",
        "sigma": "每次模型调用的 sigma",
        "C": "预测",
        "guided": "引导后",
        "no images": "这种 Latent 不是图像。",
    },
}


class _Curve(NamedTuple):
    """One line of a panel.

    Attributes:
        label: what it is.
        values: ``[calls, batch]``.
        colour: where one run alone is drawn; of several runs, each has its own.
        dashed: whether to draw dashes.
    """

    label: str
    values: np.ndarray
    colour: str
    dashed: bool = False


# The words of a language, and whether one run alone is drawn; then the curves of one record.
_Curves = Callable[[Record, dict[str, str], bool], Iterator[_Curve]]


def _of_push(name: str, record: Record, words: dict[str, str]) -> tuple[str, str]:
    """A push in words, and its colour."""
    further = [other for other in record.pushes if other not in _OF_PUSH]
    colours = dict(zip(further, itertools.cycle(_OF_FURTHER), strict=False)) | _OF_PUSH
    return _in_words(name, words), colours[name]


def _in_words(name: str, words: dict[str, str]) -> str:
    """A prediction or a push in words: "another_2" is the second one of its kind."""
    kind, _, number = name.partition("_")
    return f"{words[kind]} {number}".rstrip()


def _of_pushes(value: Callable[[Record, PushReadings], np.ndarray], label: str = "{}") -> _Curves:
    def curves(record: Record, words: dict[str, str], alone: bool) -> Iterator[_Curve]:
        for name, push in record.pushes.items():
            # Of several runs, colours tell the runs apart, and dashes the pushes.
            dashed = not alone and name != WEAK
            in_words, colour = _of_push(name, record, words)
            words_of_it = words.get(label, label).format(in_words)
            yield _Curve(words_of_it, value(record, push), colour, dashed)

    return curves


def _lengths(record: Record, words: dict[str, str], alone: bool) -> Iterator[_Curve]:
    yield from _of_pushes(lambda record, push: 100 * push.added / record.norm)(record, words, alone)
    if not alone:
        return
    for name, push in record.pushes.items():
        in_words, colour = _of_push(name, record, words)
        label = words["before"].format(in_words)
        yield _Curve(label, 100 * push.difference / record.norm, colour, dashed=True)
    if len(record.pushes) > 1:
        yield _Curve(words["whole"], 100 * record.push / record.norm, _OF_BOTH)


def _cosines(record: Record, words: dict[str, str], alone: bool) -> Iterator[_Curve]:
    yield from _of_pushes(lambda record, push: push.cosine, "with C")(record, words, alone)
    if alone and record.pushes.keys() >= _OF_PUSH.keys():
        yield _Curve(words["both"], record.cosine, _OF_BOTH)


def _shifts(record: Record, words: dict[str, str], alone: bool) -> Iterator[_Curve]:
    for name, shift, colour in (
        ("mean", record.mean_shift, _OF_MEAN),
        ("std", record.std_shift, _OF_STD),
    ):
        yield _Curve(words[name], np.sqrt((shift**2).mean(axis=2)), colour, name == "std")


def _posteriors(record: Record, words: dict[str, str], alone: bool) -> Iterator[_Curve]:
    for name, push in record.pushes.items():
        if not np.isnan(push.posterior).all():
            in_words, colour = _of_push(name, record, words)
            yield _Curve(in_words, push.posterior, colour, not alone and name == WEAK)


@dataclass(frozen=True)
class _Panel:
    """One plot of a figure.

    Attributes:
        curves: of one record.
        always: values that the axis has to show.
        level: where a bolder line goes across.
    """

    curves: _Curves
    always: tuple[float, ...] = ()
    level: float | None = None


_PANELS = {
    "scale": _Panel(_of_pushes(lambda record, push: push.scale), (1.0,), 1.0),
    "push": _Panel(_lengths, (0.0,)),
    "cosine": _Panel(_cosines, (0.0,), 0.0),
    "along": _Panel(_of_pushes(lambda record, push: push.parallel), (0.0, 1.0)),
    "shift": _Panel(_shifts, (0.0,)),
    "posterior": _Panel(_posteriors, (0.0, 1.0)),
}

# What an artist may choose to see.
VIEWS = ("everything", *_PANELS, "thumbnails")


class Strip(NamedTuple):
    """One row of thumbnails.

    Attributes:
        kind: "C", "guided" or the name of a push.
        name: of the run, where there are several.
        sigmas: ``[n]``, of the thumbnails.
        images: ``n`` of ``[height, width, 3]``, 0 to 1; NaN where there is none.
    """

    kind: str
    name: str
    sigmas: np.ndarray
    images: Sequence[np.ndarray]


def plot_records(
    records: Sequence[Record], view: str, language: str, strips: Sequence[Strip]
) -> Tensor:
    """Draw what one run or several have recorded.

    Each curve is the mean of a batch; of one run alone, a band goes from the least to the greatest.

    Args:
        records: at least one, and at most as many as there are colours; the first one's calls give
            the axis, and those of others stand where their sigmas do.
        view: one of ``VIEWS``.
        language: of the words, "en" or "zh".
        strips: thumbnails, for the views that show them.

    Returns:
        ``[1, height, width, 3]``, 0 to 1.
    """
    words = _WORDS[language]
    names = list(_PANELS) if view == "everything" else [view] if view in _PANELS else []
    if view == "everything":
        names = [name for name in names if name != "posterior" or _has(records, name, words)]
    with_strips = view == "thumbnails" or (view == "everything" and len(strips) > 0)
    width = _COLUMN if view in _PANELS else 2 * _COLUMN
    heading = _heading_height(records, width)
    rows = -(-len(names) // 2)
    panel_height = _panel_height(records, words, names)
    top = heading + rows * panel_height
    canvas = Canvas(width, top + (_strips_height(strips, width) if with_strips else 0))
    if len(records) > 1:
        entries = [(each.name, SERIES[at], False) for at, each in enumerate(records)]
        legend(canvas, (_MARGIN, _MARGIN / 2), entries, _TYPE, width - 2 * _MARGIN)
    for place, name in enumerate(names):
        row, column = divmod(place, 2)
        # The last one of an odd number has its row for itself.
        across = width if place == len(names) - 1 and column == 0 else width // 2
        above = heading + row * panel_height
        box = (column * width / 2, above, column * width / 2 + across, above + panel_height)
        _draw_panel(canvas, box, name, records, words)
    if with_strips:
        _draw_strips(canvas, top, strips, words)
    return canvas.image()


def _has(records: Sequence[Record], name: str, words: dict[str, str]) -> bool:
    return any(True for each in records for _ in _PANELS[name].curves(each, words, True))


def _entries(
    records: Sequence[Record], name: str, words: dict[str, str]
) -> list[tuple[str, str, bool]]:
    """The entries of a panel's legend."""
    alone = len(records) == 1
    entries = {}
    for record in records:
        for curve in _PANELS[name].curves(record, words, alone):
            entries[curve.label] = (curve.label, curve.colour if alone else MUTED, curve.dashed)
    return list(entries.values())


def _heading_height(records: Sequence[Record], width: int) -> int:
    if len(records) == 1:
        return 0
    entries = [(each.name, TEXT, False) for each in records]
    return round(legend(Canvas(1, 1), (0, 0), entries, _TYPE, width - 2 * _MARGIN)) + _MARGIN


def _panel_height(records: Sequence[Record], words: dict[str, str], names: list[str]) -> int:
    """Room for the longest of the legends."""
    width = _COLUMN - 2 * _MARGIN
    heights = [
        legend(Canvas(1, 1), (0, 0), _entries(records, name, words), _TYPE, width) for name in names
    ]
    return round(_ABOVE + max(heights, default=0) + _PLOT_HEIGHT + _BELOW)


def _draw_panel(
    canvas: Canvas,
    outer: Box,
    name: str,
    records: Sequence[Record],
    words: dict[str, str],
) -> None:
    left, top, right, bottom = outer
    panel, alone = _PANELS[name], len(records) == 1
    gap = _MARGIN / 4
    canvas.rectangle((left + gap, top + gap, right - gap, bottom - gap), fill=PANEL)
    canvas.text((left + _MARGIN, top + _MARGIN), words[name], _TITLE, "lt")
    entries = _entries(records, name, words)
    below_title = (left + _MARGIN, top + 2 * _TITLE)
    top += _ABOVE + legend(canvas, below_title, entries, _TYPE, right - left - 2 * _MARGIN)
    box = (left + _LEFT, top, right - _RIGHT, bottom - _BELOW)
    curves = [
        (place, record, curve)
        for place, record in enumerate(records)
        for curve in panel.curves(record, words, alone)
    ]
    values = [curve.values[np.isfinite(curve.values)] for _, _, curve in curves]
    known = np.concatenate([*values, panel.always])
    if not any(map(len, values)):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        canvas.text(middle, words["nothing"], _TYPE, "mm", MUTED)
        return
    ends = axis(float(known.min()), float(known.max()))
    first = records[0].sigma.max(axis=1)
    axes = Axes(canvas, box, (0, max(1, len(first) - 1)), ends)
    axes.grid(_sigma_ticks(first), ticks(*ends, about=4), _TYPE)
    axes.x_label(words["sigma"], _TYPE, MUTED)
    if panel.level is not None:
        axes.level(panel.level)
    if alone:
        for _, record, curve in curves:
            _draw_band(axes, _positions(record, first), curve)
    for place, record, curve in curves:
        colour = curve.colour if alone else SERIES[place]
        x, mean = _positions(record, first), curve.values.mean(axis=1)
        axes.curve(x, mean, colour, width=3, dashed=curve.dashed)
        if not curve.dashed:
            axes.dots(x, mean, colour)


def _draw_band(axes: Axes, x: np.ndarray, curve: _Curve) -> None:
    """From the least to the greatest of a batch, in each part without gaps."""
    if curve.values.shape[1] == 1:
        return
    there = np.isfinite(curve.values).all(axis=1)
    for part in np.split(np.arange(len(x)), np.flatnonzero(np.diff(there)) + 1):
        if there[part[0]] and len(part) > 1:
            values = curve.values[part]
            axes.band(x[part], values.min(axis=1), values.max(axis=1), _faint(curve.colour))


def _faint(colour: str) -> str:
    """A colour that nearly fades into the panel."""
    pairs = zip(bytes.fromhex(PANEL[1:]), bytes.fromhex(colour[1:]), strict=True)
    return "#" + bytes(round(0.78 * paper + 0.22 * ink) for paper, ink in pairs).hex()


def _positions(record: Record, first: np.ndarray) -> np.ndarray:
    """Where the calls of a record stand on the axis of the first one's sigmas, ``[calls]``."""
    sigmas = record.sigma.max(axis=1)
    if np.array_equal(sigmas, first):
        return np.arange(len(first), dtype=float)
    falling = np.minimum.accumulate(first)
    return np.interp(-sigmas, -falling, np.arange(len(first)))


def _sigma_ticks(sigmas: np.ndarray) -> list[tuple[float, str]]:
    last = len(sigmas) - 1
    calls = range(0, last + 1, max(1, -(-last // _LABELS)))
    return [(call, f"{sigmas[call]:.3g}") for call in sorted({*calls, last})]


def _strip_label(strip: Strip, words: dict[str, str]) -> str:
    what = _in_words(strip.kind, words)
    return f"{strip.name}: {what}" if strip.name else what


_LABEL_WIDTH, _GAP = 210, 6


def _cell(strips: Sequence[Strip], width: int) -> tuple[float, float]:
    """Width and height of a thumbnail; all rows share them."""
    across = (width - 2 * _MARGIN - _LABEL_WIDTH) / _most(strips) - _GAP
    height, wide = strips[0].images[0].shape[:2]
    return across, across * height / wide


def _most(strips: Sequence[Strip]) -> int:
    """How many thumbnails a row has room for; those of short runs are no larger for it."""
    return max(6, *(len(each.images) for each in strips))


def _strips_height(strips: Sequence[Strip], width: int) -> int:
    if not strips:
        return round(4 * LINE_HEIGHT * _TYPE)
    images = len(strips) * (_cell(strips, width)[1] + _GAP)
    return round(images + _MARGIN + len(_groups(strips)) * 1.5 * LINE_HEIGHT * _TYPE)


def _groups(strips: Sequence[Strip]) -> list[list[Strip]]:
    """Strips of the same run, which have their sigmas in common."""
    return [list(group) for _, group in itertools.groupby(strips, key=lambda each: each.name)]


def _draw_strips(
    canvas: Canvas, top: float, strips: Sequence[Strip], words: dict[str, str]
) -> None:
    if not strips:
        middle = (canvas.width / 2, top + 2 * LINE_HEIGHT * _TYPE)
        canvas.text(middle, words["no images"], _TYPE, "mm", MUTED)
        return
    across, height = _cell(strips, canvas.width)
    top += _MARGIN / 2
    start = _MARGIN + _LABEL_WIDTH
    lefts = [start + place * (across + _GAP) for place in range(_most(strips))]
    for group in _groups(strips):
        for strip in group:
            lines = wrapped(_strip_label(strip, words), _TYPE, _LABEL_WIDTH - _GAP)
            first = top + height / 2 - (len(lines) - 1) / 2 * LINE_HEIGHT * _TYPE
            for number, line in enumerate(lines):
                canvas.text((_MARGIN, first + number * LINE_HEIGHT * _TYPE), line, _TYPE, "lm")
            for left, image in zip(lefts, strip.images, strict=False):
                box = (left, top, left + across, top + height)
                if np.isnan(image).any():
                    canvas.rectangle(box, fill=PANEL)
                else:
                    canvas.paste(box, image, smooth=False)
            top += height + _GAP
        canvas.text((_MARGIN, top), "sigma", _TYPE, "la", MUTED)
        for left, sigma in zip(lefts, group[0].sigmas, strict=False):
            canvas.text((left + across / 2, top), f"{sigma:.3g}", _TYPE, "ma", MUTED)
        top += 1.5 * LINE_HEIGHT * _TYPE
