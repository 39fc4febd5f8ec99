"""What came of the templates, as a sheet of images and as a page with a table."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sheet import DIM_TEXT, Label, SheetRow, draw_sheet
from tabular import markdown_table

from .measuring import Pair, Ran, Result

NUMBERS = "report.json"

GIB, MIB = 2**30, 2**20
CELL = 320  # Of an image on the sheet, in pixels.
HEADER = (
    "template",
    "device",
    "files",
    "push, of the prediction",
    "a step without",
    "a step with the push",
    "times as long",
    "over its model passes",
    "memory without",
    "memory with the push",
    "times as much",
)
WORDS = 4
HOW = (
    "Each pair is the same seed without the push (`weak_scale` 1, no schedule or shape; cfg stays) "
    "and with it, one right after the other in turn. *push* is the mean length of what is added at "
    "a step, over that of the prediction. A step is the mean of all but the first, in which models "
    "are loaded. A ratio is the median over the seeds, with the least and the greatest in "
    "brackets. *over its model passes* is the time of the steps over that of the passes in them, "
    "so that 1 would be guidance at no cost beside its passes. Memory is the most at any time of "
    "the sampling, in a run of its own after ComfyUI was told to free everything."
)
ON_CPU = (
    "On a CPU, ratios are those of processor time, which other programs disturb less than the "
    "clock, and memory is that of the whole process."
)
ON_DEVICE = (
    "Times are the device's own. Memory is what torch has allocated on the device; weights that "
    "ComfyUI loads dynamically are not in it."
)


@dataclass(frozen=True)
class Report:
    """All that is told.

    Attributes:
        results: of templates that ran.
        left_out: why others did not, by name.
        failed: the errors of those that failed, by name.
        system: ComfyUI's own description of itself and its device.
        settings: what was asked for on the command line.
    """

    results: list[Result]
    left_out: dict[str, str]
    failed: dict[str, str]
    system: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def device(self) -> str:
        """The device that ComfyUI computes on."""
        device = self.system["devices"][0]
        if self._is_cpu:
            return f"CPU, {os.cpu_count()} cores"
        # ComfyUI puts the number of the device before its name, and its allocator behind it.
        return device["name"].split(" : ")[0].partition(" ")[2] or device["name"]

    @property
    def _is_cpu(self) -> bool:
        return self.system["devices"][0]["type"] == "cpu"

    def write(self, folder: Path) -> None:
        """Write everything into a folder."""
        for result in self.results:
            _save_images(result, folder / result.template.name)
        if self.results:
            self.sheet().save(folder / "sheet.jpg", quality=90)
        (folder / "report.md").write_text(self.page(), encoding="utf-8")
        (folder / NUMBERS).write_text(self.as_json(), encoding="utf-8")

    def sheet(self) -> Image.Image:
        """Images without the push and with it, side by side; the seeds below each other."""
        rows = []
        for result in self.results:
            columns = zip(*map(_pictures, result.pairs), strict=True)
            rows.append(
                SheetRow(
                    [
                        Label(result.template.name),
                        *(Label(f"push, {it}", colour=DIM_TEXT) for it in _told_of_push(result)),
                        Label(_told_of_time(result), colour=DIM_TEXT),
                    ],
                    [[each for pictures in column for each in pictures] for column in columns],
                )
            )
        note = f"{self.device}; the same noise in both columns"
        return draw_sheet(("without the push", "with the push"), rows, (note, ""), CELL)

    def page(self) -> str:
        """The table, how it came about, and what is not in it, in Markdown."""
        system = self.system["system"]
        asked = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value)
        parts = [
            "# Templates on real checkpoints",
            f"ComfyUI {system['comfyui_version']}, torch {system['pytorch_version']}, "
            f"{self.device}; {asked}.",
        ]
        if self.results:
            on_device = ON_CPU if self._is_cpu else ON_DEVICE
            rows = list(map(self._row, self.results))
            parts += [markdown_table(HEADER, rows, words=WORDS), f"{HOW} {on_device}"]
        for title, reasons in (("Left out", self.left_out), ("Failed", self.failed)):
            if reasons:
                items = (f"- `{name}`: {why}" for name, why in reasons.items())
                parts += [f"## {title}", "\n".join(items)]
        return "\n\n".join(parts) + "\n"

    def _row(self, result: Result) -> list[str]:
        without, pushed = result.fresh.without, result.fresh.pushed
        return [
            f"`{result.template.name}`",
            self.device,
            ", ".join(f"`{each}`" for each in result.template.files),
            ", ".join(_told_of_push(result)) or "none",
            _seconds(statistics.median(pair.without.step for pair in result.pairs)),
            _seconds(statistics.median(pair.pushed.step for pair in result.pairs)),
            _spread(result.time_ratios),
            _spread(result.over_passes),
            _bytes(without.memory),
            _bytes(pushed.memory),
            "–" if result.memory_ratio is None else f"{result.memory_ratio:.3f}",
        ]

    def as_json(self) -> str:
        """All numbers, for other programs."""
        results = [
            {
                "template": result.template.name,
                "files": result.template.files,
                "push": result.push,
                "time_ratios": result.time_ratios,
                "over_passes": result.over_passes,
                "memory": [each.memory for each in result.fresh],
                "memory_ratio": result.memory_ratio,
                "pairs": [[_numbers(ran) for ran in pair] for pair in result.pairs],
            }
            for result in self.results
        ]
        # Where ComfyUI lies and how it was called is nobody's business.
        system = {k: v for k, v in self.system["system"].items() if k != "argv"}
        return json.dumps(
            {
                "settings": dict(self.settings),
                "device": self.device,
                "system": system,
                "results": results,
                "left_out": self.left_out,
                "failed": self.failed,
            },
            indent=2,
            ensure_ascii=False,
        )


def _numbers(ran: Ran) -> dict[str, Any]:
    return {
        "step": ran.step,
        "work": ran.work,
        "over_passes": ran.over_passes,
        "passes": ran.passes,
        "runs": ran.runs,
    }


def _pictures(pair: Pair) -> tuple[list[Image.Image], list[Image.Image]]:
    without, pushed = ([each.picture for each in ran.saved] for ran in pair)
    return without, pushed


def _save_images(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, pair in enumerate(result.pairs):
        for what, ran in zip(("without", "push"), pair, strict=True):
            for number, saved in enumerate(ran.saved):
                suffix = Path(saved.name).suffix
                (folder / f"seed{seed}_{number}_{what}{suffix}").write_bytes(saved.data)


def _told_of_time(result: Result) -> str:
    ratio = statistics.median(result.time_ratios)
    return "" if math.isnan(ratio) else f"a step takes {ratio:.2f} times as long"


def _told_of_push(result: Result) -> list[str]:
    return [f"{name} {100 * share:.2g} %" for name, share in result.push.items()]


def _spread(values: Sequence[float]) -> str:
    if any(map(math.isnan, values)):
        return "–"
    middle = f"{statistics.median(values):.3f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3f}–{max(values):.3f})"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _bytes(value: int | None) -> str:
    if value is None:
        return "–"
    return f"{value / GIB:.2f} GiB" if value >= GIB else f"{value / MIB:.0f} MiB"
