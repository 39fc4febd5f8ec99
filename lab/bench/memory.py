"""How much memory this process uses, and how much of it in tensors."""

from __future__ import annotations

import gc
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensor

_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Memory:
    """What was used, in bytes.

    Attributes:
        peak: the most since the last :func:`forget_peak`, of all that the process has in memory.
        tensors: of all tensors that there are.
    """

    peak: int
    tensors: int

    @classmethod
    def now(cls) -> Memory:
        """Measure both."""
        # In this order, for to look for tensors takes memory, too.
        return cls(peak_memory(), tensor_memory())


def forget_peak() -> None:
    """Let the peak start anew. Where that is not Linux, all that came before stays part of it."""
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5", encoding="ascii")


def peak_memory() -> int:
    """The most memory that this process has had since its peak was forgotten, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def tensor_memory() -> int:
    """Bytes of all tensors that there are, each stretch of memory counted once."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    storages = [
        each.untyped_storage()
        for each in tensors
        # What torch only reckons with, as when it compiles, has no memory.
        if each.layout == torch.strided
        and each.device.type != "meta"
        and not isinstance(each, FakeTensor)
    ]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
