"""ComfyUI's dynamic loading of weights, on the CPU.

Releases from 2026 on load models so wherever there is an NVIDIA card. All of it here is ComfyUI's
own, but for the card's memory, which is plain memory, and for what it takes for the card: the
device ``cpu:0``, on which no tensor says that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

AVAILABLE = hasattr(comfy.model_patcher, "ModelPatcherDynamic")
REASON = "this ComfyUI does not load weights dynamically"
CARD = torch.device("cpu", 0)

# Which of a model's layers the card has room for, by their number.
RESIDENT: dict[str, Callable[[int], bool]] = {
    "all resident": lambda number: True,
    "none resident": lambda number: False,
    "part resident": lambda number: number % 3 == 0,
}


class _Room:
    """Of a model on the card, in the place of ``ModelVBAR``."""

    fits: Callable[[int], bool]

    def __init__(self, size: int, device: int) -> None:
        self.memory: list[Tensor] = []

    def alloc(self, size: int) -> tuple[_Room, int, int]:
        self.memory.append(torch.zeros(size, dtype=torch.uint8))
        return self, len(self.memory) - 1, size

    def prioritize(self) -> None:
        pass

    def loaded_size(self) -> int:
        return sum(len(memory) for number, memory in enumerate(self.memory) if self.fits(number))

    def free_memory(self, size: float) -> int:
        return 0


class _HostBuffer:
    size = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


def _fault(at: tuple[_Room, int, int]) -> bytes | None:
    room, number, _ = at
    return b"here" if room.fits(number) else None


@contextmanager
def dynamic_vram(resident: str) -> Iterator[None]:
    """Load and run models dynamically; what is loaded before stays as it is."""
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar
    import comfy_aimdo.torch
    from comfy.cli_args import args

    cast = comfy.ops.cast_bias_weight

    def cast_for_card(layer: Any, input: Any = None, *rest: Any, **options: Any) -> Any:
        device = options.get("device") or (input.device if input is not None else None)
        if hasattr(layer, "_v") and input is not None and not rest and device != CARD:
            options["device"] = CARD
        return cast(layer, input, *rest, **options)

    management, vbar = comfy.model_management, comfy_aimdo.model_vbar
    is_cpu = management.is_device_cpu
    room = type("Room", (_Room,), {"fits": staticmethod(RESIDENT[resident])})
    comfy.model_management.unload_all_models()
    with ExitStack() as undo:
        for owner, name, value in (
            (vbar, "ModelVBAR", room),
            (vbar, "vbar_fault", _fault),
            (vbar, "vbar_unpin", lambda at: None),
            (comfy_aimdo.torch, "aimdo_to_tensor", lambda at, device: at[0].memory[at[1]]),
            (comfy_aimdo.host_buffer, "HostBuffer", _HostBuffer),
            (args, "disable_pinned_memory", True),
            (management, "get_torch_device", lambda: CARD),
            (management, "is_device_cpu", lambda device: device != CARD and is_cpu(device)),
            (comfy.ops, "cast_bias_weight", cast_for_card),
            (
                comfy.model_patcher,
                "CoreModelPatcher",
                comfy.model_patcher.ModelPatcherDynamic,
            ),
        ):
            undo.enter_context(mock.patch.object(owner, name, value))
        undo.callback(comfy.model_management.unload_all_models)
        yield
