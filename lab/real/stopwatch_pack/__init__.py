"""A node pack that measures the sampling runs of a ComfyUI: steps, model passes, memory.

It has no nodes. It stands around ComfyUI's own sampler and around each pass of any model, and
``GET /sampling_runs`` gives the runs since the last time it was asked, in JSON:

    seconds   of each step but the first, in which models are loaded
    work      the same, as little as possible of what else the machine does: on a CPU the processor
              time of all threads, else the seconds
    passes    of each of these steps, the work in each model pass
    rows      the same, conditionings times images in each pass
    memory    the most bytes at any time of the run: of torch on a GPU, of the process on a CPU

On a GPU the time is the GPU's own, and nothing waits for it before the run is over.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.samplers
import torch
from aiohttp import web
from comfy_api.latest import ComfyExtension
from server import PromptServer


class Clock:
    """Time on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> Any:
        """A moment, to be measured from."""
        if self._device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
            return moment
        wait = getattr(_module(self._device), "synchronize", None)
        if self._device.type != "cpu" and wait is not None:
            wait()
        return time.perf_counter(), time.process_time()

    def finish(self) -> None:
        """To be called before any time is read."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def seconds(self, start: Any, end: Any) -> float:
        """From one moment to another."""
        if self._device.type == "cuda":
            return start.elapsed_time(end) / 1000
        return end[0] - start[0]

    def work(self, start: Any, end: Any) -> float:
        """The same in processor time on a CPU, of which other programs take less."""
        if self._device.type == "cpu":
            return end[1] - start[1]
        return self.seconds(start, end)


def _module(device: torch.device) -> Any:
    """That of torch for a kind of device, such as ``torch.cuda``; None where there is none."""
    return getattr(torch, device.type, None)


class Memory:
    """The most memory that was in use since this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        forget = getattr(_module(device), "reset_peak_memory_stats", None)
        if forget is not None:
            forget(device)
        elif self._is_of_the_process:
            # What earlier runs have left to the allocator is not of this one.
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    @property
    def _is_of_the_process(self) -> bool:
        return self._device.type == "cpu" and sys.platform == "linux"

    def peak(self) -> int | None:
        """In bytes; None where that cannot be known."""
        most = getattr(_module(self._device), "max_memory_allocated", None)
        if most is not None:
            return most(self._device)
        if not self._is_of_the_process:
            return None
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        (kibibytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(kibibytes) * 1024


class Stopwatch:
    """Measures one sampling run."""

    def __init__(self, device: torch.device) -> None:
        self._clock = Clock(device)
        self._memory = Memory(device)
        self._ticks: list[Any] = []
        # Of each step: start, end and rows of its passes.
        self._passes: list[list[tuple[Any, Any, int]]] = [[]]

    def tick(self) -> None:
        """A step is over."""
        self._ticks.append(self._clock.now())
        self._passes.append([])

    def around(self, model_pass: Callable[[], torch.Tensor], rows: int) -> torch.Tensor:
        """Measure one pass."""
        start = self._clock.now()
        out = model_pass()
        self._passes[-1].append((start, self._clock.now(), rows))
        return out

    def measured(self) -> dict[str, Any]:
        """What came of it, when the run is over."""
        self._clock.finish()
        seconds, work = self._clock.seconds, self._clock.work
        steps = list(zip(self._ticks, self._ticks[1:], strict=False))
        passes = self._passes[1 : len(self._ticks)]
        return {
            "seconds": [seconds(start, end) for start, end in steps],
            "work": [work(start, end) for start, end in steps],
            "passes": [[work(start, end) for start, end, _ in step] for step in passes],
            "rows": [[rows for _, _, rows in step] for step in passes],
            "memory": self._memory.peak(),
        }


_runs: list[dict[str, Any]] = []
_watch: Stopwatch | None = None

_sample = comfy.samplers.KSAMPLER.sample
_apply_model = comfy.model_base.BaseModel._apply_model


def _watched_sample(
    self: comfy.samplers.KSAMPLER,
    model_wrap: Any,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any],
    callback: Callable[..., None] | None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    global _watch
    _watch = watch = Stopwatch(comfy.model_management.get_torch_device())

    def ticking(*state: Any) -> None:
        watch.tick()
        if callback is not None:
            callback(*state)

    try:
        latent = _sample(self, model_wrap, sigmas, extra_args, ticking, *args, **kwargs)
    finally:
        _watch = None
    _runs.append(watch.measured())
    return latent


def _watched_pass(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if _watch is None:
        return _apply_model(self, x, *args, **kwargs)
    return _watch.around(lambda: _apply_model(self, x, *args, **kwargs), len(x))


comfy.samplers.KSAMPLER.sample = _watched_sample
comfy.model_base.BaseModel._apply_model = _watched_pass


@PromptServer.instance.routes.get("/sampling_runs")
async def _sampling_runs(_: web.Request) -> web.Response:
    runs, _runs[:] = list(_runs), []
    return web.json_response(runs)


class StopwatchExtension(ComfyExtension):
    """What ComfyUI registers: nothing."""

    async def get_node_list(self) -> list[type]:
        return []


async def comfy_entrypoint() -> StopwatchExtension:
    """Called by ComfyUI when it loads this folder as a custom node."""
    return StopwatchExtension()
