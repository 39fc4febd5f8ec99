"""What Schedule Preview draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..guiders.push.noise import Noise
from ..guiders.push.schedules import Live, RunningSchedules, Schedule
from .drawing import style
from .drawing.axes import Axes, axis, ticks
from .drawing.canvas import Canvas

# A node shows it half as large or less, and its letters must still be legible.
_WIDTH, _HEIGHT = 768, 432
_BOX = (92, 58, _WIDTH - 30, _HEIGHT - 88)
_TYPE, _TITLE = 24, 26
_BETWEEN = 24  # Points of the curve from one step to the next.
_LABELS = 7  # So many sigmas fit below.

_WORDS = {
    "en": {
        "title": "scale at each step",
        "live": "scale at each step, within the band by the image",
        "sigma": "sigma at each step",
    },
    "zh": {
        "title": "每一步的引导强度",
        "live": "每一步的引导强度，色带内取决于图像",
        "sigma": "每一步的 sigma",
    },
}


def plot_schedule(
    schedules: Sequence[Schedule], noise: Noise, scale: float, language: str
) -> Tensor:
    """Draw the scale that a chain of schedules leads to at each step.

    Args:
        noise: of the model, with the sigmas of the run; the last one, where no call is made, ends
            the last step.
        scale: of the artist's node.
        language: of the words, "en" or "zh".

    Returns:
        ``[1, 432, 768, 3]``, 0 to 1.
    """
    sigmas = np.asarray(noise.sigmas)
    steps = len(sigmas) - 1
    positions = np.linspace(0, steps, steps * _BETWEEN + 1)
    low, high = _scales(schedules, noise, scale, np.interp(positions, range(steps + 1), sigmas))
    dots = slice(0, steps * _BETWEEN, _BETWEEN)
    bottom, top = axis(min(low.min(), 1.0), max(high.max(), 1.0), margin=0.1)
    canvas = Canvas(_WIDTH, _HEIGHT)
    axes = Axes(canvas, _BOX, x=(0, steps), y=(bottom, top))
    axes.grid(_sigma_labels(sigmas), ticks(bottom, top), _TYPE)
    axes.level(1.0)  # A scale of 1 is off.
    edges = (high,) if np.array_equal(low, high) else (low, high)
    if len(edges) == 2:
        axes.band(positions, *edges, style.BAND)
    for values in edges:
        axes.curve(positions, values)
        axes.dots(positions[dots], values[dots])
    live = any(isinstance(each, Live) for each in schedules)
    words = _WORDS[language]
    axes.title(words["live" if live else "title"], _TITLE)
    axes.x_label(words["sigma"], _TYPE)
    return canvas.image()


def _scales(
    schedules: Sequence[Schedule], noise: Noise, scale: float, sigmas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest scale at each sigma."""
    running = RunningSchedules(schedules, noise)
    low, high = 1.0 + np.array([running.bounds(scale - 1.0, float(sigma)) for sigma in sigmas]).T
    return low, high


def _sigma_labels(sigmas: np.ndarray) -> list[tuple[float, str]]:
    steps = len(sigmas) - 1
    every = -(-steps // _LABELS)
    # Always the last sigma, and none so near that the two would touch.
    chosen = [step for step in range(0, steps, every) if steps - step > every / 2]
    return [(step, f"{sigmas[step]:.3g}") for step in (*chosen, steps)]
