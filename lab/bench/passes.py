"""Where the time of a sampling run goes: steps, and the passes of models inside them.

A pass is measured at the innermost door, ``BaseModel._apply_model``, so that all that surrounds it
is seen as what it is, an addition: wrappers around the model, preparing and exchanging weights, the
arithmetic of guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter, process_time
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from comfyui.running import Run

_MARK = "bench_weak"


@dataclass(frozen=True)
class ModelPass:
    """One pass of a model.

    Attributes:
        start: when, by the clock of ``perf_counter``.
        seconds: how long.
        processor: how long processors worked on it, all of them together.
        rows: conditionings times images, which is the length of the batch.
        weak: whether it was a pass of what :func:`marked` has returned.
        layers: the part of ``processor`` that went into the layers asked for.
    """

    start: float
    seconds: float
    processor: float
    rows: int
    weak: bool
    layers: float


@dataclass(frozen=True)
class Step:
    """From one call of the sampler's callback to the next, and the passes in between."""

    seconds: float
    processor: float
    passes: tuple[ModelPass, ...]

    @property
    def over_passes(self) -> float:
        """Its time over the sum of its own model passes."""
        return self.seconds / sum(each.seconds for each in self.passes)

    @property
    def rows(self) -> list[int]:
        """The length of the batch in one pass after the other."""
        return [each.rows for each in self.passes]

    @property
    def main_and_weak(self) -> tuple[ModelPass, ModelPass]:
        """The one pass of the main model, and the one of the weak."""
        (main,) = (each for each in self.passes if not each.weak)
        (weak,) = (each for each in self.passes if each.weak)
        return main, weak


@dataclass(frozen=True)
class Measured:
    """A sampling run.

    Attributes:
        set_up: seconds before the first pass.
        first: the first step, set-up included.
        steps: all others.
        latent: what came out.
        patched: how many weights ComfyUI has patched meanwhile.
    """

    set_up: float
    first: Step
    steps: tuple[Step, ...]
    latent: Tensor
    patched: int

    @property
    def rows(self) -> list[list[int]]:
        """The length of the batch in each pass of each step."""
        return [step.rows for step in (self.first, *self.steps)]


def measure(
    run: Run,
    guider: comfy.samplers.CFGGuider,
    models: Iterable[ModelPatcher],
    layers: Sequence[nn.Module] = (),
) -> Measured:
    """Sample with a guider, and write down where the time went.

    Args:
        run: of two steps or more.
        guider: of any kind.
        models: those whose passes are counted.
        layers: whose part in each pass is measured, none of them inside another.
    """
    ticks: list[tuple[float, float]] = []

    def tick(*_: Any) -> None:
        ticks.append((perf_counter(), process_time()))

    with passes_of(models, layers) as passes, count_patched_weights() as patched:
        tick()
        latent = run.sample(guider, tick)
    first, *steps = (
        Step(
            seconds=end - begin,
            processor=processor_end - processor_begin,
            passes=tuple(each for each in passes if begin <= each.start < end),
        )
        for (begin, processor_begin), (end, processor_end) in pairwise(ticks)
    )
    return Measured(passes[0].start - ticks[0][0], first, tuple(steps), latent, patched[0])


@contextmanager
def passes_of(
    models: Iterable[ModelPatcher], layers: Sequence[nn.Module]
) -> Iterator[list[ModelPass]]:
    """Write down every pass of some models."""
    passes: list[ModelPass] = []
    entered, in_layers = [0.0], [0.0]

    def before(*_: Any) -> None:
        entered[0] = process_time()

    def after(*_: Any) -> None:
        in_layers[0] += process_time() - entered[0]

    def timed(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def _apply_model(x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            weak = any(
                isinstance(each, dict) and _MARK in each for each in (*args, *kwargs.values())
            )
            in_layers[0] = 0.0
            start, processor_start = perf_counter(), process_time()
            out = original(x, t, *args, **kwargs)
            processor, seconds = process_time() - processor_start, perf_counter() - start
            passes.append(ModelPass(start, seconds, processor, x.shape[0], weak, in_layers[0]))
            return out

        return _apply_model

    with ExitStack() as undo:
        for model in {id(each.model): each.model for each in models}.values():
            model._apply_model = timed(model._apply_model)
            undo.callback(delattr, model, "_apply_model")
        for layer in layers:
            undo.callback(layer.register_forward_pre_hook(before).remove)
            undo.callback(layer.register_forward_hook(after).remove)
        yield passes


@contextmanager
def count_patched_weights() -> Iterator[list[int]]:
    """Count how many weights ComfyUI's patcher makes anew."""
    count = [0]
    original = ModelPatcher.patch_weight_to_device

    def patch_weight_to_device(patcher: ModelPatcher, key: str, *args: Any, **kwargs: Any) -> Any:
        count[0] += key in patcher.patches
        return original(patcher, key, *args, **kwargs)

    ModelPatcher.patch_weight_to_device = patch_weight_to_device
    try:
        yield count
    finally:
        ModelPatcher.patch_weight_to_device = original


def marked(weak: ModelPatcher) -> ModelPatcher:
    """A clone whose passes can be told from those of other patchers of the same model."""
    clone = weak.clone()
    clone.model_options["transformer_options"][_MARK] = True
    return clone
