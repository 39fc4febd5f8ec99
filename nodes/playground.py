"""Category "bad version/playground": guidance in a world of two dimensions."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..guiders.errors import bad_input
from ..playground import scenes
from ..playground.methods import Settings
from ..playground.sampling import STEPS
from .drawing.style import LANGUAGES
from .playground_plots import plot_fields, plot_methods
from .schedules import Chain as Schedules
from .schedules import ScheduleType
from .shapes import Chain as Shapes
from .shapes import ShapeType
from .widgets import advanced, check, language_input, number

CATEGORY = "bad version/playground"

_MOST_FRAMES = 60
# An animation begins when most points have come into view.
_FIRST_STEP = 12


class BadVersionGuidancePlayground(io.ComfyNode):
    """``→ IMAGE``: methods of guidance, compared where everything can be seen."""

    NAME = "Guidance Playground"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuidancePlayground",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Shows what guidance does in a world of two dimensions, with small models "
            "that come with the pack: what each method draws, what it leaves out, and where it "
            "pushes. Try scales, schedules and shapes within seconds.",
            inputs=[
                io.Combo.Input(
                    "page",
                    options=["methods", "how it works"],
                    default="methods",
                    tooltip="What to draw: 'methods' compares what each method draws, 'how it "
                    "works' shows where the pushes go.",
                ),
                number(
                    "cfg",
                    2.0,
                    0.0,
                    100.0,
                    0.05,
                    "How hard to push away from the empty or the negative prompt. 1 is off, 1.5 to "
                    "3 is useful here, below 1 pulls towards it.",
                ),
                number(
                    "weak_scale",
                    2.0,
                    0.0,
                    100.0,
                    0.05,
                    "How hard to push away from the bad version. 1 is off, 1.2 to 3 is useful, "
                    "below 1 pulls towards it.",
                ),
                advanced(
                    io.Int.Input(
                        "samples",
                        default=2000,
                        min=1,
                        max=scenes.MEASURED,
                        tooltip="How many points 'methods' draws; 500 to 4000 show the shape "
                        "well. The figures below them are always measured on 4000.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "seed",
                        default=0,
                        min=0,
                        max=0xFFFFFFFFFFFFFFFF,
                        control_after_generate=False,
                        tooltip="Seed of the random numbers. With another seed, 'methods' draws "
                        "other points; all methods start from the same noise.",
                    )
                ),
                io.Int.Input(
                    "animation",
                    default=0,
                    min=0,
                    max=_MOST_FRAMES,
                    tooltip="How many frames to draw of the way from noise to the end. 0 is none, "
                    "24 to 48 is useful; each takes a fraction of a second.",
                ),
                language_input(),
                ScheduleType.Input(
                    "schedule",
                    optional=True,
                    tooltip="When and how hard to push, for every push in the figure. Sigma falls "
                    "from 5 to 0 here, in 32 steps. Not connected: the scales apply at every step.",
                ),
                ShapeType.Input(
                    "shape",
                    optional=True,
                    tooltip="Which part of each push to keep. Shapes that compare two pushes, or "
                    "need an image, do not fit here. Not connected: all of it.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The figure, also shown on the node."
                ),
                io.Image.Output(
                    display_name="frames",
                    tooltip="The frames of the animation as one batch, for SaveAnimatedWEBP. "
                    "Without an animation: the figure.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        page: str,
        cfg: float,
        weak_scale: float,
        samples: int,
        seed: int,
        animation: int,
        language: str,
        schedule: Schedules = (),
        shape: Shapes = (),
    ) -> io.NodeOutput:
        """Draw the page; raise ``GuidanceError`` for inputs that cannot be used here."""
        check(
            cls,
            page=page,
            cfg=cfg,
            weak_scale=weak_scale,
            samples=samples,
            seed=seed,
            animation=animation,
            language=language,
        )
        cls._refuse(shape)
        settings = Settings(cfg, weak_scale, tuple(schedule), tuple(shape))
        draw = {"methods": cls._methods, "how it works": cls._fields}[page]
        image, frames = draw(settings, samples, seed, animation, LANGUAGES[language])
        batch = torch.cat(frames) if frames else image
        return io.NodeOutput(image, batch, ui=ui.PreviewImage(image, cls=cls))

    @classmethod
    def _refuse(cls, shapes: Shapes) -> None:
        for shape in shapes:
            if shape.needs_other_push:
                came = f"'{shape.node}', which compares with another push"
                expected = "a shape of one push, as each panel has only one"
                raise bad_input(cls.NAME, "shape", came, expected)
            if shape.needs_image:
                came = f"'{shape.node}', which needs images, with height and width"
                raise bad_input(cls.NAME, "shape", came, "a shape for points, which have neither")

    @classmethod
    def _methods(
        cls, settings: Settings, samples: int, seed: int, animation: int, language: str
    ) -> tuple[Tensor, list[Tensor]]:
        steps = torch.linspace(_FIRST_STEP, STEPS, animation).tolist()[:-1]
        tick = _ticking(STEPS * len(scenes.METHODS) + len(steps))
        results = scenes.compare(settings, seed, tick)
        image = plot_methods(results, samples, language)
        frames = []
        for step in steps:
            frames.append(plot_methods(results, samples, language, step))
            tick()
        return image, [*frames, image] if animation else []

    @classmethod
    def _fields(
        cls, settings: Settings, samples: int, seed: int, animation: int, language: str
    ) -> tuple[Tensor, list[Tensor]]:
        levels = scenes.falling(animation)
        tick = _ticking(len(scenes.POINTS) + len(levels))

        def fields(sigma: float, point: tuple[float, float]) -> scenes.Fields:
            found = scenes.fields(settings, sigma, point)
            tick()
            return found

        image = plot_fields([fields(*each) for each in scenes.POINTS.items()], language)
        point = next(iter(scenes.POINTS.values()))
        return image, [plot_fields([fields(sigma, point)], language) for sigma in levels]


def _ticking(steps: int) -> Callable[[], None]:
    """What counts a step on the node's progress bar, and stops if the artist has cancelled."""
    progress = comfy.utils.ProgressBar(steps)

    def tick() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update(1)

    return tick


NODES: list[type[io.ComfyNode]] = [BadVersionGuidancePlayground]
