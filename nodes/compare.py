"""Category "bad version/compare": many settings in one run, and their images side by side."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import io, ui

from ..guiders.errors import bad_input
from .drawing.sheet import Captions, Sheet, paper
from .drawing.style import LANGUAGES
from .schedules import Chain, ScheduleType
from .sweeps import Choice, Sweep, arranged
from .widgets import advanced, check, language_input

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

CATEGORY = "bad version/compare"

SweepType = io.Custom("BadVersionSweep")

_MOST_IMAGES = 256
_MOST_SCALE = 100.0
_MOST_SEED = 2**64 - 1
_SOCKETS = 4  # For weak models, and for schedules.

# What the guider's inputs take for nothing connected.
_NOT_CONNECTED: dict[str, Any] = {"weak_model": None, "schedule": ()}

# Of a sheet: what image files and graphics cards hold, and what fits into memory.
_MOST_SIDE = 16384
_MOST_AREA = 100_000_000

# Chinese keyboards type full-width punctuation.
_BETWEEN_NUMBERS = r"[\s,;，；、]+"
_NUMBER = r"\d+\.?\d*|\.\d+"
_DASH = r"\s*[-–~～－]\s*"

# What the widget calls the settings of a sweep, and their captions in each language.
_SETTINGS = {
    "scale": {"en": "scale {}", "zh": "引导强度 {}"},
    "seed": {"en": "seed {}", "zh": "种子 {}"},
    "weak model": {"en": "weak model {}", "zh": "弱模型 {}"},
    "schedule": {"en": "schedule {}", "zh": "调度 {}"},
}


def _names(text: str) -> list[str]:
    """What stands between commas, or between semicolons if there are any."""
    marks = "[;；]" if re.search("[;；]", text) else "[,，、]"
    return [each.strip() for each in re.split(marks, text)] if text.strip() else []


class BadVersionGuidanceSweep(io.ComfyNode):
    """``→ FLOAT, INT, MODEL, BadVersionSchedule, BadVersionSweep``: lists, run one by one."""

    NAME = "Guidance Sweep"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuidanceSweep",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Runs every combination of scales, seeds, weak models and schedules in one "
            "go. Connect its outputs where you would set these by hand, and Labelled Grid after "
            "the images.",
            inputs=[
                io.String.Input(
                    "scales",
                    default="1, 1.5, 2, 3",
                    tooltip="Numbers separated by commas, for weak_scale or cfg, from 0 to 100. 1 "
                    "is off and shows what to compare with; 1.5 to 3 is useful.",
                ),
                io.String.Input(
                    "seeds",
                    default="1-3",
                    tooltip="Whole numbers separated by commas, or ranges such as 1-3. Three or "
                    "more tell the effect of a setting from luck.",
                ),
                io.Combo.Input(
                    "columns",
                    options=list(_SETTINGS),
                    default="scale",
                    tooltip="What changes from left to right on the sheet. Everything else changes "
                    "from top to bottom.",
                ),
                advanced(
                    io.String.Input(
                        "weak_model_names",
                        default="",
                        tooltip="Names of the weak models on the sheet, separated by commas. "
                        "Empty: they are numbered.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "schedule_names",
                        default="",
                        tooltip="Names of the schedules on the sheet, separated by commas. Empty: "
                        "they are numbered.",
                    )
                ),
                language_input(),
                *(
                    io.Model.Input(
                        f"weak_model_{number}",
                        optional=True,
                        tooltip="A bad version to compare with the others, from a loader or a "
                        "Weaken node. Not connected: there is one less to compare.",
                    )
                    for number in range(1, _SOCKETS + 1)
                ),
                *(
                    ScheduleType.Input(
                        f"schedule_{number}",
                        optional=True,
                        tooltip="A schedule to compare with the others. Not connected: there is "
                        "one less to compare.",
                    )
                    for number in range(1, _SOCKETS + 1)
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="scale",
                    is_output_list=True,
                    tooltip="For weak_scale or cfg of Bad-Version Guider or Patch, or for any "
                    "other cfg.",
                ),
                io.Int.Output(
                    display_name="seed",
                    is_output_list=True,
                    tooltip="For noise_seed of RandomNoise, or seed of KSampler.",
                ),
                io.Model.Output(
                    display_name="weak_model",
                    is_output_list=True,
                    tooltip="For weak_model of Bad-Version Guider or Patch. Without a weak model "
                    "here, it is as if nothing were connected there.",
                ),
                ScheduleType.Output(
                    display_name="schedule",
                    is_output_list=True,
                    tooltip="For weak_schedule or negative_schedule of Bad-Version Guider or "
                    "Patch. Without a schedule here, it is as if nothing were connected there.",
                ),
                SweepType.Output(
                    display_name="sweep",
                    tooltip="For Labelled Grid: where each image belongs, and its captions.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        scales: str,
        seeds: str,
        columns: str,
        weak_model_names: str,
        schedule_names: str,
        language: str,
        **connected: ModelPatcher | Chain | None,
    ) -> io.NodeOutput:
        """Return the lists; raise ``GuidanceError`` for inputs that cannot be used.

        Args:
            connected: ``weak_model_1`` to ``weak_model_4`` and ``schedule_1`` to ``schedule_4``.
        """
        check(cls, columns=columns, language=language)
        words = {name: each[LANGUAGES[language]] for name, each in _SETTINGS.items()}
        settings = {
            "scale": [
                Choice(each, words["scale"].format(f"{each:g}")) for each in cls._scales(scales)
            ],
            "seed": [Choice(each, words["seed"].format(each)) for each in cls._seeds(seeds)],
        }
        for name, kind, typed in (
            ("weak model", "weak_model", weak_model_names),
            ("schedule", "schedule", schedule_names),
        ):
            settings[name] = cls._named(kind, connected, typed, words[name])
        count = math.prod(map(len, settings.values()))
        if count > _MOST_IMAGES:
            raise bad_input(
                cls.NAME,
                "scales" if len(settings["scale"]) > len(settings["seed"]) else "seeds",
                f"{count} images, with all other settings",
                f"fewer numbers, so that there are at most {_MOST_IMAGES}",
            )
        images, sweep = arranged(settings, columns)
        return io.NodeOutput(*([each[name] for each in images] for name in _SETTINGS), sweep)

    @classmethod
    def _scales(cls, typed: str) -> list[float]:
        expected = f"numbers from 0 to {_MOST_SCALE:g} separated by commas, such as '1, 1.5, 2'"
        scales = []
        for part in filter(None, re.split(_BETWEEN_NUMBERS, typed)):
            if not re.fullmatch(_NUMBER, part) or float(part) > _MOST_SCALE:
                raise bad_input(cls.NAME, "scales", repr(part), expected)
            scales.append(float(part))
        return cls._distinct("scales", scales, expected)

    @classmethod
    def _seeds(cls, typed: str) -> list[int]:
        expected = "whole numbers from 0 on separated by commas, or ranges such as '1-4'"
        seeds: list[int] = []
        for part in filter(None, re.split(_BETWEEN_NUMBERS, re.sub(_DASH, "-", typed))):
            if not re.fullmatch(r"\d{1,20}(-\d{1,20})?", part):
                raise bad_input(cls.NAME, "seeds", repr(part), expected)
            ends = [int(end) for end in part.split("-")]
            first, last = ends[0], ends[-1]
            if max(first, last) > _MOST_SEED:
                raise bad_input(cls.NAME, "seeds", part, f"seeds up to {_MOST_SEED}")
            if not first <= last < first + _MOST_IMAGES:
                raise bad_input(
                    cls.NAME,
                    "seeds",
                    f"the range {part}",
                    f"a range from the lowest to the highest of at most {_MOST_IMAGES} seeds",
                )
            seeds += range(first, last + 1)
        return cls._distinct("seeds", seeds, expected)

    @classmethod
    def _distinct(cls, name: str, numbers: list[Any], expected: str) -> list[Any]:
        if not numbers:
            raise bad_input(cls.NAME, name, "nothing", expected)
        ((number, times),) = Counter(numbers).most_common(1)
        if times > 1:
            raise bad_input(cls.NAME, name, f"{number} {times} times", "each number once")
        return numbers

    @classmethod
    def _named(
        cls, kind: str, connected: Mapping[str, Any], typed: str, unnamed: str
    ) -> list[Choice]:
        """What is connected, or what is the same as nothing connected."""
        sockets = (f"{kind}_{number}" for number in range(1, _SOCKETS + 1))
        found = [connected[name] for name in sockets if connected.get(name) is not None]
        names = _names(typed)
        if names and len(names) != len(found):
            raise bad_input(
                cls.NAME,
                f"{kind}_names",
                f"{len(names)} for {len(found)} that are connected",
                "one name for each, separated by commas, or none",
            )
        if not found:
            return [Choice(_NOT_CONNECTED[kind], "")]
        names = names or [unnamed.format(number) for number in range(1, len(found) + 1)]
        return [Choice(*each) for each in zip(found, names, strict=True)]


class BadVersionLabelledGrid(io.ComfyNode):
    """``IMAGE, BadVersionSweep → IMAGE``: images side by side, with captions."""

    NAME = "Labelled Grid"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionLabelledGrid",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Puts images side by side on one sheet, with captions beside the rows and "
            "columns. With Guidance Sweep, the captions come by themselves.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="All images of a run, of any size. Images of one batch share a cell; a "
                    "single batch has a cell for each of its images.",
                ),
                SweepType.Input(
                    "sweep",
                    optional=True,
                    tooltip="From Guidance Sweep: rows, columns and captions. Not connected: the "
                    "captions and columns below are used.",
                ),
                io.String.Input(
                    "title",
                    default="",
                    tooltip="A line above the sheet. Empty: no title.",
                ),
                io.String.Input(
                    "column_captions",
                    default="",
                    tooltip="Captions above the columns, separated by commas. Empty: those of the "
                    "sweep.",
                ),
                io.String.Input(
                    "row_captions",
                    default="",
                    tooltip="Captions beside the rows, separated by commas. Empty: those of the "
                    "sweep.",
                ),
                io.Int.Input(
                    "columns",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Number of cells in a row; 3 to 6 is usual. Not used with a sweep.",
                ),
                advanced(
                    io.Int.Input(
                        "cell_size",
                        default=384,
                        min=0,
                        max=4096,
                        step=32,
                        tooltip="Longer side of a cell in pixels; images are resized to it. 256 "
                        "to 512 is good to look at; 0 keeps their size.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet",
                    tooltip="The sheet as one image, also shown on the node. For Save Image.",
                )
            ],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        title: list[str],
        column_captions: list[str],
        row_captions: list[str],
        columns: list[int],
        cell_size: list[int],
        sweep: Sequence[Sweep | None] = (None,),
    ) -> io.NodeOutput:
        """Draw the sheet; raise ``GuidanceError`` for inputs that do not fit together.

        Every input is a list, of one element if the artist sees one value.
        """
        check(cls, columns=columns[0], cell_size=cell_size[0])
        for each in images:
            cls._require_images(each)
        (plan,) = sweep[:1]
        count = None if plan is None else len(plan.rows) * len(plan.columns)
        cells = images
        if len(images) == 1 and count in (None, len(images[0])):
            cells = list(images[0].split(1))
        if count not in (None, len(cells)):
            raise bad_input(
                cls.NAME,
                "images",
                f"{len(cells)} of them",
                f"{count}, one for each setting of the sweep, or nothing connected to 'sweep'",
            )
        across = min(columns[0], len(cells)) if plan is None else len(plan.columns)
        captions = Captions(
            title=title[0].strip(),
            common="" if plan is None else plan.common,
            columns=cls._captions("column_captions", column_captions[0], across)
            or (() if plan is None else plan.columns),
            rows=cls._captions("row_captions", row_captions[0], -(-len(cells) // across))
            or (() if plan is None else plan.rows),
        )
        sheet = Sheet([tuple(each.shape[:3]) for each in cells], across, captions, cell_size[0])
        cls._require_room(sheet)
        progress = comfy.utils.ProgressBar(len(cells))

        def done() -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update(1)

        image = sheet.draw(map(_opaque, cells), done)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))

    @classmethod
    def _require_images(cls, images: Tensor) -> None:
        if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (1, 3, 4):
            raise bad_input(
                cls.NAME,
                "images",
                f"a tensor of shape {list(images.shape)}",
                "images: [count, height, width, 3], or 4 with transparency",
            )

    @classmethod
    def _captions(cls, name: str, typed: str, count: int) -> tuple[str, ...]:
        captions = tuple(_names(typed))
        if captions and len(captions) != count:
            where = "column" if name == "column_captions" else "row"
            raise bad_input(
                cls.NAME,
                name,
                f"{len(captions)} for {count} {where}s",
                f"one for each {where}, separated by commas, or by semicolons if a caption has "
                "commas itself",
            )
        return captions

    @classmethod
    def _require_room(cls, sheet: Sheet) -> None:
        if max(sheet.width, sheet.height) > _MOST_SIDE or sheet.width * sheet.height > _MOST_AREA:
            raise bad_input(
                cls.NAME,
                "cell_size",
                f"a sheet of {sheet.width} by {sheet.height} pixels",
                f"at most {_MOST_SIDE} on each side and {_MOST_AREA // 10**6} million in all: "
                "a smaller cell, but not 0, or fewer images",
            )


def _opaque(images: Tensor) -> Tensor:
    """``[n, h, w, 1, 3 or 4]`` → ``[n, h, w, 3]`` between 0 and 1, on the sheet's paper."""
    images = images.float().cpu().nan_to_num().clamp(0, 1)
    if images.shape[3] == 4:
        colours, opacity = images[..., :3], images[..., 3:]
        return opacity * colours + (1 - opacity) * paper()
    return images.expand(*images.shape[:3], 3)


NODES: list[type[io.ComfyNode]] = [BadVersionGuidanceSweep, BadVersionLabelledGrid]
