"""Runs a template on a server: images with the push and without, and what the push costs."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from comfyui.server import Server
from comfyui.workflow import Prompt

from .templates import RECORD_PREFIX, Template

PUSHES = ("weak", "negative")


class Saved(NamedTuple):
    """A file that a prompt has saved, and what to show of it."""

    name: str
    data: bytes
    picture: Image.Image


@dataclass(frozen=True)
class Ran:
    """What came of running a prompt once.

    Attributes:
        saved: the first file of each node that saves any.
        runs: its sampling runs, as the stopwatch pack has measured them.
    """

    saved: list[Saved]
    runs: list[dict[str, Any]]

    @property
    def step(self) -> float:
        """Mean seconds of a step; NaN where there were no two."""
        return _mean([each for run in self.runs for each in run["seconds"]])

    @property
    def work(self) -> float:
        """Mean work of a step, in seconds; see the stopwatch pack."""
        return _mean([each for run in self.runs for each in run["work"]])

    @property
    def over_passes(self) -> float:
        """The work of all steps over that of all model passes in them."""
        passes = sum(sum(step) for run in self.runs for step in run["passes"])
        work = sum(sum(run["work"]) for run in self.runs)
        return work / passes if passes else float("nan")

    @property
    def passes(self) -> float:
        """Model passes in a step, on average, where a batch of two prompts counts as one."""
        return _mean([len(step) for run in self.runs for step in run["passes"]])

    @property
    def memory(self) -> int | None:
        """The most bytes at any time."""
        return max((run["memory"] for run in self.runs if run["memory"]), default=None)


class Pair(NamedTuple):
    """The same noise without the push and with it, one right after the other."""

    without: Ran
    pushed: Ran


@dataclass(frozen=True)
class Result:
    """What came of a template.

    Attributes:
        template: it.
        pairs: one for each seed.
        fresh: another one, of the first seed, each of the two on an empty device.
        push: mean length of what each push adds, over that of the prediction, by name.
    """

    template: Template
    pairs: list[Pair]
    fresh: Pair
    push: dict[str, float]

    @property
    def time_ratios(self) -> list[float]:
        """Of each pair, the work of a step with the push over that of one without."""
        return [
            pair.pushed.work / pair.without.work if pair.without.work else float("nan")
            for pair in self.pairs
        ]

    @property
    def over_passes(self) -> list[float]:
        """With the push, the work of the steps over that of their model passes, of each seed."""
        return [pair.pushed.over_passes for pair in self.pairs]

    @property
    def memory_ratio(self) -> float | None:
        """The most memory with the push over that without."""
        without, pushed = self.fresh.without.memory, self.fresh.pushed.memory
        return pushed / without if without and pushed else None


def measure(
    server: Server, template: Template, object_info: Mapping[str, Any], seeds: int, timeout: float
) -> Result:
    """Run a template without the push and with it.

    Args:
        server: with the stopwatch pack, and an output folder of its own.
        template: it.
        object_info: what the server says of its nodes.
        seeds: how many pairs; one where the template has no seed.
        timeout: seconds for one prompt.
    """

    def run(prompt: Prompt, *, fresh: bool = False) -> Ran:
        if fresh:
            server.free()
        server.get("/sampling_runs")  # Those of a prompt that has failed, too, are forgotten.
        outputs = server.wait(server.queue(prompt), timeout)["outputs"]
        return Ran(list(_saved(server, outputs)), server.get("/sampling_runs"))

    # The record of a push takes a little time, so it is left to this run, which is not timed.
    fresh = Pair(
        run(template.prompt(push=False, seed=0), fresh=True),
        run(template.recorded(object_info, 0), fresh=True),
    )
    push = _push(server.base / "output" / Path(RECORD_PREFIX).parent)
    pairs = []
    for seed in range(seeds if template.has_seed else 1):
        # In turn, so that what a machine does meanwhile spares neither. No prompt comes twice in a
        # row, since ComfyUI would not run it again.
        order = (False, True) if seed % 2 == 0 else (True, False)
        ran = {push: run(template.prompt(push=push, seed=seed)) for push in order}
        pairs.append(Pair(ran[False], ran[True]))
    return Result(template, pairs, fresh, push)


def _push(folder: Path) -> dict[str, float]:
    """Mean share of each push in the prediction, by the records in a folder, which are deleted."""
    shares: dict[str, list[float]] = {}
    for path in folder.glob("*"):
        if path.suffix == ".json":
            columns = json.loads(path.read_text(encoding="utf-8"))["columns"]
            for name in PUSHES:
                rows = zip(columns.get(f"{name}_push", []), columns["norm"], strict=False)
                shares.setdefault(name, []).extend(
                    added / norm for row in rows for added, norm in zip(*row, strict=True) if norm
                )
        path.unlink()
    return {name: _mean(values) for name, values in shares.items() if values}


def _saved(server: Server, outputs: Mapping[str, Any]) -> Iterator[Saved]:
    """The first file of each node that has saved any; previews are none."""
    for _, shown in sorted(outputs.items(), key=lambda item: int(item[0].split("-")[0])):
        files = [each for each in shown.get("images", []) if each.get("type") == "output"]
        if files:
            data = server.image(files[0])
            yield Saved(files[0]["filename"], data, picture_of(files[0]["filename"], data))


def picture_of(name: str, data: bytes) -> Image.Image:
    """The image in a file; of a video, the frame in its middle."""
    if Path(name).suffix.lower() not in (".mp4", ".webm", ".mkv"):
        picture = Image.open(io.BytesIO(data))
        picture.seek(getattr(picture, "n_frames", 1) // 2)
        return picture.convert("RGB")
    import av

    with av.open(io.BytesIO(data)) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
    return frames[len(frames) // 2]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")
