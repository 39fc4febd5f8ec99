"""The figures of Guidance Playground."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ImageColor
from torch import Tensor

from ..playground.distribution import NEGATIVE, POSITIVE, world
from ..playground.sampling import Paths
from ..playground.scenes import FIELD, SPACING, Drawn, Fields
from .drawing.axes import Axes
from .drawing.canvas import Box, Canvas
from .drawing.fonts import LINE_HEIGHT, text_size, wrapped
from .drawing.style import LINE, MUTED, PANEL, SERIES, TEXT

# A node shows it half as large or less, and letters must still be legible.
_TYPE = 24
_WIDTH, _MARGIN, _GAP = 1152, 24, 18
_ROW = LINE_HEIGHT * _TYPE

_TREES = {POSITIVE: "#8f99a8", NEGATIVE: "#6b4f8a"}
_OF_TREES, _OF_HAZE = 0.75, 0.3  # How strongly they are drawn without noise and with it.
_THINNEST = 0.006  # About as thick as the thinnest branches.
_FAINT = 0.4  # Exponent for densities, of which most are small beside the greatest.

# Of the page of methods: what part of the plane a panel shows (left, right, lower and upper edge),
# how many paths, and at which steps the pushes on them.
_COLUMNS = 3
_WHOLE = (-0.9, 1.8, -0.86, 0.94)
_POINT, _OUTLIER, _PATH, _PUSH = LINE, SERIES[2], TEXT, SERIES[1]
_RADIUS, _OPACITY = 1.3, 0.7
_PATHS, _PUSHED = 7, slice(12, 29, 4)

# Of the page that explains: how far the panel around a point reaches, in noise levels, and the
# letters there. What they stand for is among the words.
_REACH = 2.6
_LETTERS = {"x": TEXT, "C": SERIES[3], "N": "#b48ad6", "W": SERIES[2], "G": LINE}

Window = tuple[float, float, float, float]
# Draws the sign of an entry of a legend into a box.
Sign = Callable[[Canvas, Box], None]

_WORDS = {
    "en": {
        "truth": "The truth",
        "unguided": "No guidance",
        "classifier_free": "Classifier-free guidance, cfg {:g}",
        "negative": "Negative prompt, cfg {:g}",
        "bad_version": "Bad version, weak_scale {:g}",
        "dynamic_negative": "Dynamic negative, cfg {:g}",
        "figures": "outliers {:.1f} %, coverage {:.2f}",
        "sigma": "σ {:.3g}",
        "wanted": "positive prompt",
        "unwanted": "negative prompt",
        "point": "sample",
        "outlier": "outlier",
        "path": "path",
        "push": "push",
        "together": "All together at one noisy point",
        "positive field": "Towards the positive prompt",
        "negative field": "Push away from the negative prompt",
        "weak field": "Push away from the bad version",
        "length": "mean length {:.3f}",
        "x": "noisy point",
        "C": "positive prompt",
        "N": "negative prompt",
        "W": "bad version",
        "G": "guided",
    },
    "zh": {
        "truth": "真实分布",
        "unguided": "无引导",
        "classifier_free": "无分类器引导，CFG {:g}",
        "negative": "负面提示词，CFG {:g}",
        "bad_version": "劣化版，引导强度 {:g}",
        "dynamic_negative": "动态负面，CFG {:g}",
        "figures": "离群 {:.1f} %，覆盖 {:.2f}",
        "sigma": "σ {:.3g}",
        "wanted": "正面提示词",
        "unwanted": "负面提示词",
        "point": "样本",
        "outlier": "离群样本",
        "path": "路径",
        "push": "推力",
        "together": "合在一起：以一个含噪点为例",
        "positive field": "走向正面提示词",
        "negative field": "远离负面提示词的推力",
        "weak field": "远离劣化版的推力",
        "length": "平均长度 {:.3f}",
        "x": "含噪点",
        "C": "正面提示词",
        "N": "负面提示词",
        "W": "劣化版",
        "G": "引导后",
    },
}


def plot_methods(
    results: Sequence[Drawn], samples: int, language: str, step: float | None = None
) -> Tensor:
    """Draw the page of methods: a panel for each, three in a row, and a legend.

    Args:
        results: of the panels, row by row.
        samples: how many of the points to draw.
        language: of the words, "en" or "zh".
        step: where on their paths to draw them, with the noise level below; None for their ends,
            with a few paths, the pushes on them, and the figures.

    Returns:
        ``[1, height, 1152, 3]``, 0 to 1.
    """
    words = _WORDS[language]
    rows = -(-len(results) // _COLUMNS)
    width = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) / _COLUMNS
    height = round(width * _aspect(_WHOLE))
    each = 2.4 * _ROW + height + _GAP
    canvas = Canvas(_WIDTH, round(2 * _MARGIN + rows * each + _ROW))
    for number, result in enumerate(results):
        row, column = divmod(number, _COLUMNS)
        left, top = _MARGIN + column * (width + _GAP), _MARGIN + row * each
        title = words[result.method].format(result.scale)
        canvas.text((left, top), title, _TYPE, "la")
        box = (left, top + 1.1 * _ROW, left + width, top + 1.1 * _ROW + height)
        axes = _panel(canvas, box, _WHOLE, (0.0,))
        with canvas.clipped(box):
            if step is None or result.paths is None:
                caption = words["figures"].format(100 * result.outliers, result.coverage)
                _draw_ends(axes, result, samples)
            else:
                sigma, points = _on_the_way(result.paths, step)
                caption = words["sigma"].format(sigma)
                axes.canvas.dots(_places(axes, points[:samples]), _POINT, _RADIUS, _OPACITY)
        canvas.text((left, box[3] + 0.2 * _ROW), caption, _TYPE, "la", MUTED)
    signs = {
        "wanted": _area(_TREES[POSITIVE]),
        "unwanted": _area(_TREES[NEGATIVE]),
        "point": _dot(_POINT),
        "outlier": _dot(_OUTLIER),
        "path": _stroke(_PATH),
        "push": _arrow(_PUSH),
    }
    _legend(canvas, _MARGIN + rows * each, [(words[key], sign) for key, sign in signs.items()])
    return canvas.image()


def _draw_ends(axes: Axes, result: Drawn, samples: int) -> None:
    points, outside = result.points[:samples], result.outside[:samples]
    for colour, chosen in ((_POINT, ~outside), (_OUTLIER, outside)):
        axes.canvas.dots(_places(axes, points[chosen]), colour, _RADIUS, _OPACITY)
    if result.paths is None:
        return
    few = result.paths.points[:, :_PATHS]
    axes.canvas.lines([_places(axes, way) for way in few.unbind(1)], _PATH, 1.5, 0.8)
    starts = few[:-1][_PUSHED].flatten(0, 1)
    pushes = result.paths.pushes[_PUSHED, :_PATHS].flatten(0, 1)
    ends = starts + _shown(pushes)
    axes.canvas.arrows(_places(axes, starts), _places(axes, ends), _PUSH, 2)


def _shown(pushes: Tensor) -> Tensor:
    """Pushes ``[n, 2]``, the least long enough to be seen, the greatest not all across a panel."""
    length = pushes.norm(dim=1, keepdim=True)
    shown = torch.where(length > 1e-4, 0.08 + 0.2 * length / (length + 0.2), 0.0)
    return pushes / length.clamp_min(1e-12) * shown


def _on_the_way(paths: Paths, step: float) -> tuple[float, Tensor]:
    """Noise level and points ``[n, 2]`` between two steps."""
    before = min(int(step), len(paths.points) - 2)
    share = step - before
    sigma = torch.lerp(paths.sigmas[before], paths.sigmas[before + 1], share)
    return float(sigma), torch.lerp(paths.points[before], paths.points[before + 1], share)


def plot_fields(rows: Sequence[Fields], language: str) -> Tensor:
    """Draw the page that explains: for each noise level a point and three fields, and a legend.

    Args:
        rows: one for each noise level.
        language: of the words, "en" or "zh".

    Returns:
        ``[1, height, 1152, 3]``, 0 to 1.
    """
    words = _WORDS[language]
    titles = [words["together"], *(words[f"{way} field"] for way in rows[0].ways)]
    width = (_WIDTH - 2 * _MARGIN - 3 * _GAP) / 4
    height = round(width * _aspect(FIELD))
    lines = [wrapped(title, _TYPE, width) for title in titles]
    top = _MARGIN + max(map(len, lines)) * _ROW + 0.2 * _ROW
    step = height + 1.5 * _ROW
    canvas = Canvas(_WIDTH, round(top + len(rows) * step + _ROW + _MARGIN))
    for column, title in enumerate(lines):
        left = _MARGIN + column * (width + _GAP)
        for number, line in enumerate(title):
            canvas.text((left, _MARGIN + number * _ROW), line, _TYPE, "la")
        for number, row in enumerate(rows):
            upper = top + number * step
            box = (left, upper, left + width, upper + height)
            if column == 0:
                caption = words["sigma"].format(row.sigma)
                _draw_point(canvas, box, row)
            else:
                way = list(row.ways.values())[column - 1]
                caption = words["length"].format(way.norm(dim=1).mean())
                _draw_field(canvas, box, row, way)
            canvas.text((left, box[3] + 0.15 * _ROW), caption, _TYPE, "la", MUTED)
    letters = [(f"{key} {words[key]}", None) for key in _LETTERS]
    _legend(canvas, top + len(rows) * step, letters)
    return canvas.image()


def _draw_point(canvas: Canvas, box: Box, row: Fields) -> None:
    """A noisy point, what is predicted from it, and the pushes that make up the guided one."""
    reach = _REACH * row.sigma
    x, y = row.point.tolist()
    aspect = (box[3] - box[1]) / (box[2] - box[0])
    window = (x - reach, x + reach, y - reach * aspect, y + reach * aspect)
    axes = _panel(canvas, box, window, (row.sigma, 0.0))
    at = {"x": row.point, **row.predictions}
    places = {key: _places(axes, point[None])[0] for key, point in at.items()}
    with canvas.clipped(box):
        canvas.line([places["x"], places["C"]], TEXT, 1.5, dashed=True)
        for start, end in (("N", "C"), ("W", "C"), ("C", "G")):
            colour = _LETTERS[end if start == "C" else start]
            canvas.arrows(places[start][None], places[end][None], colour, 2.5)
        for key, colour in _LETTERS.items():
            canvas.dots(places[key][None], colour, 5)
            across, down = _inside(places[key], places["C"], box) + _beside(key, places)
            canvas.text((across, down), key, _TYPE, "mm", colour)


def _beside(key: str, places: dict[str, np.ndarray]) -> np.ndarray:
    """How far from its point a letter stands, so that letters keep clear of points and lines."""
    back = places["x"] - places["C"]
    back = back / max(float(np.linalg.norm(back)), 1e-9)
    aside = np.array([-back[1], back[0]])
    # Most often W lies between x and C, and the line to G starts there.
    away = -aside if aside @ (places["G"] - places["C"]) > 0 else aside
    ways = {"x": back, "C": -back, "W": away, "N": (0.0, 1.0), "G": (0.0, -1.0)}
    return 0.8 * _TYPE * np.array(ways[key])


def _inside(place: np.ndarray, within: np.ndarray, box: Box) -> np.ndarray:
    """Where the way from a place inside of a box to another one leaves it, or that other one."""
    edge = 1.2 * _TYPE
    low, high = np.array(box[:2]) + edge, np.array(box[2:]) - edge
    way = place - within
    room = np.where(way > 0, high - within, within - low) / np.maximum(np.abs(way), 1e-9)
    return within + way * min(1.0, float(room.min()))


def _draw_field(canvas: Canvas, box: Box, row: Fields, way: Tensor) -> None:
    axes = _panel(canvas, box, FIELD, (row.sigma, 0.0))
    # As long as the places are apart, at most.
    length = way.norm(dim=1, keepdim=True)
    shown = way / length.clamp_min(float(length.quantile(0.9))).clamp_min(1e-12) * SPACING
    with canvas.clipped(box):
        starts = _places(axes, row.places - shown / 2)
        canvas.arrows(starts, _places(axes, row.places + shown / 2), _PUSH, 1.8)


def _panel(canvas: Canvas, box: Box, window: Window, sigmas: tuple[float, ...]) -> Axes:
    """A part of the plane, with both trees in it under each noise level of some."""
    left, top, right, bottom = box
    pixels = (round(right - left), round(bottom - top))
    canvas.paste(box, _ground(window, pixels, sigmas))
    return Axes(canvas, box, x=window[:2], y=window[2:])


def _ground(window: Window, pixels: tuple[int, int], sigmas: tuple[float, ...]) -> np.ndarray:
    """Both trees under some noise levels, as an image ``[height, width, 3]``, 0 to 1."""
    ground = np.broadcast_to(_rgb(PANEL), (pixels[1], pixels[0], 3))
    for sigma in sigmas:
        strength = _OF_TREES if sigma == 0 else _OF_HAZE
        for label, colour in _TREES.items():
            share = strength * _shade(window, pixels, label, sigma)[..., None]
            ground = ground + share * (_rgb(colour) - ground)
    return ground


@lru_cache(maxsize=64)
def _shade(window: Window, pixels: tuple[int, int], label: int, sigma: float) -> np.ndarray:
    """How dense a tree is in a part of the plane, ``[height, width]``, 1 where it is densest."""
    left, right, lower, upper = window
    # What is smooth needs few points.
    coarsest = math.hypot(sigma, _THINNEST) / 2
    counts = [
        min(most, math.ceil(length / coarsest))
        for most, length in zip(pixels, (right - left, upper - lower), strict=True)
    ]
    x, y = torch.linspace(left, right, counts[0]), torch.linspace(upper, lower, counts[1])
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 2)
    density = world().log_density(grid, label, sigma)
    shade = (_FAINT * (density - density.max())).exp().view(1, 1, counts[1], counts[0])
    return F.interpolate(shade, pixels[::-1], mode="bilinear", align_corners=True)[0, 0].numpy()


def _rgb(colour: str) -> np.ndarray:
    return np.array(ImageColor.getrgb(colour)) / 255


def _places(axes: Axes, points: Tensor) -> np.ndarray:
    """Where points of the plane, ``[n, 2]``, lie on the canvas."""
    x, y = points.double().numpy().T
    return axes.at(x, y)


def _aspect(window: Window) -> float:
    left, right, lower, upper = window
    return (upper - lower) / (right - left)


def _area(colour: str) -> Sign:
    return lambda canvas, box: canvas.rectangle(box, colour)


def _dot(colour: str) -> Sign:
    return lambda canvas, box: canvas.dots([_middle(box)], colour, 4)


def _stroke(colour: str) -> Sign:
    return lambda canvas, box: canvas.line(
        [(box[0], _middle(box)[1]), (box[2], _middle(box)[1])], colour, 2
    )


def _arrow(colour: str) -> Sign:
    def draw(canvas: Canvas, box: Box) -> None:
        middle = _middle(box)[1]
        canvas.arrows([(box[0], middle)], [(box[2], middle)], colour, 2)

    return draw


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _legend(canvas: Canvas, top: float, entries: Sequence[tuple[str, Sign | None]]) -> None:
    """One line, spread over the width of the figure."""
    sign, between = 30, 10
    widths = [
        text_size(label, _TYPE)[0] + (sign + between if draw else 0) for label, draw in entries
    ]
    gap = min(40.0, (_WIDTH - 2 * _MARGIN - sum(widths)) / (len(entries) - 1))
    left = float(_MARGIN)
    for (label, draw), width in zip(entries, widths, strict=True):
        middle = top + _ROW / 2
        if draw:
            draw(canvas, (left, middle - 8, left + sign, middle + 8))
        canvas.text((left + width, middle), label, _TYPE, "rm", MUTED)
        left += width + gap
