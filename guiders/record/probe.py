"""What guidance does, call by call: recorded while sampling, measured when it is over.

While a run lasts, each model call leaves one small matrix of inner products, two statistics of each
channel and, of the first sample, one reduced latent for each prediction, all on the model's device
and without waiting for it. Norms, cosines and shares are made of those after the last call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..push.call import NEGATIVE, WEAK, Pushed
from ..push.parts import by_sample

if TYPE_CHECKING:
    from torch import Tensor

    from ..push.formulas import Strength

# Enough for any sheet of settings. Of each run some hundred kilobytes are kept, a megabyte at most
# where latents have 16 channels.
_RUNS_KEPT = 256

# Latents of thumbnails have at most this many cells on a side, and there are so many of a run.
_CELLS = 32
_THUMBNAILS = 8

# So many numbers of a latent tell it from another one.
_MARKS = 1024


@dataclass(frozen=True)
class PushReadings:
    """One push over the model calls of a run. Arrays are ``[calls, batch]``.

    Where it was off, ``scale`` is 1, ``added`` is 0, and the others are NaN.

    Attributes:
        scale: in use, after schedules; 1 is off. Of a latent in parts the mean of all its numbers.
        difference: ``‖C − R‖``, before scale and shape.
        added: norm of what it added to the prediction.
        cosine: between ``C − R`` and ``C``.
        parallel: share of ``added²`` that lies along ``C``; the rest, ``1 − parallel``, is
            orthogonal to it.
        posterior: of :class:`.schedules.DynamicNegative`; NaN without one.
    """

    scale: np.ndarray
    difference: np.ndarray
    added: np.ndarray
    cosine: np.ndarray
    parallel: np.ndarray
    posterior: np.ndarray


@dataclass(frozen=True)
class Thumbnails:
    """Reduced predictions of the first sample, at some model calls of a run.

    Attributes:
        calls: numbers of those calls, rising.
        latents: ``[channels, height, width]`` of each call, as the model has them but in 16 bits,
            of "C", "guided" and each push's ``R`` by its name. NaN where a push was off; one that
            always was is left out. A sampler may change their size on the way.
        latent_format: ComfyUI's, of the model.
    """

    calls: list[int]
    latents: dict[str, list[Tensor]]
    latent_format: Any


@dataclass(frozen=True)
class Record:
    """One sampling run. Arrays are ``[calls, batch]`` where nothing else is said.

    Norms are of latents as the model has them.

    Attributes:
        name: of the probe.
        sigma: noise level.
        norm: ``‖C‖``.
        push: norm of the whole push, ``‖guided − C‖``.
        pushes: those that were there at any call by name: "weak", "negative", further ones.
        cosine: between the differences ``C − R`` of "weak" and "negative"; NaN where one was off.
        mean_shift: mean of each channel of the guided prediction, less that of ``C``,
            ``[calls, batch, channels]``.
        std_shift: the same for the standard deviation.
        thumbnails: None where latents are no images.
        marks: some numbers of the latent that the run has ended with.
        numbers: how many it has.
    """

    name: str
    sigma: np.ndarray
    norm: np.ndarray
    push: np.ndarray
    pushes: dict[str, PushReadings]
    cosine: np.ndarray
    mean_shift: np.ndarray
    std_shift: np.ndarray
    thumbnails: Thumbnails | None
    marks: Tensor = field(repr=False)
    numbers: int = field(repr=False)

    def columns(self) -> dict[str, np.ndarray]:
        """All numbers under the names that a table gives them, ``[calls, batch]`` each."""
        columns = {"sigma": self.sigma, "norm": self.norm, "push": self.push}
        for name, each in self.pushes.items():
            columns |= {
                f"{name}_scale": each.scale,
                f"{name}_difference": each.difference,
                f"{name}_push": each.added,
                f"{name}_cosine": each.cosine,
                f"{name}_parallel": each.parallel,
                f"{name}_orthogonal": 1 - each.parallel,
                f"{name}_posterior": each.posterior,
            }
        columns["pushes_cosine"] = self.cosine
        for what, shift in (("mean", self.mean_shift), ("std", self.std_shift)):
            for channel in range(shift.shape[2]):
                columns[f"{what}_shift_{channel}"] = shift[:, :, channel]
        return columns

    def distance_to(self, latent: Tensor) -> float:
        """How far a latent is from the one that this run ended with; infinite for another size."""
        numbers, marks = _marks(latent)
        if numbers != self.numbers:
            return float("inf")
        return float((marks - self.marks).norm())


class Probe:
    """Where the runs of one node's guidance are recorded.

    Args:
        key: identifies the artist's node, however often ComfyUI makes its probe anew: the record of
            a run that ComfyUI's cache skips must still be found.
        name: what plots call it.
    """

    def __init__(self, key: str, name: str) -> None:
        self.key = key
        self.name = name

    def recorder(self, latent_format: Any, further: Sequence[str] = ()) -> Recorder:
        """Begin to record a run.

        Args:
            latent_format: ComfyUI's, of the model.
            further: names of pushes that there may be beside "weak" and "negative".
        """
        return Recorder(self, latent_format, further)

    def keep(self, record: Record) -> None:
        """Remember a run, and forget the oldest one where there are many."""
        _kept.append((self.key, record))

    def record_of(self, latent: Tensor | None = None) -> Record | None:
        """Find the run that has ended with a latent.

        Args:
            latent: as a sampler returns it; None for the newest run.

        Returns:
            The newest of the runs whose latent comes nearest to this one, because a node after the
            sampler may have changed it. None where nothing was recorded.
        """
        runs = [record for key, record in reversed(_kept) if key == self.key]
        if not runs:
            return None
        return runs[0] if latent is None else min(runs, key=lambda run: run.distance_to(latent))


# Beside the probes, since ComfyUI may drop a probe from its cache and keep the latent.
_kept: deque[tuple[str, Record]] = deque(maxlen=_RUNS_KEPT)


class Recorder:
    """Writes down one run, call by call.

    Args:
        probe: that the record is for.
        latent_format: ComfyUI's, of the model.
        further: names of pushes that there may be beside "weak" and "negative".
    """

    def __init__(self, probe: Probe, latent_format: Any, further: Sequence[str] = ()) -> None:
        self._probe = probe
        self._names = [WEAK, NEGATIVE, *further]
        self._latent_format = latent_format
        self._sigmas: list[Tensor] = []
        self._products: list[Tensor] = []
        self._statistics: list[Tensor] = []
        self._reduced: list[Tensor] = []
        self._strengths: list[list[Strength]] = []
        self._posteriors: list[list[Tensor | None]] = []
        self._has_difference: list[list[bool]] = []

    def call(self, sigma: Tensor, C: Tensor, guided: Tensor, pushes: Mapping[str, Pushed]) -> None:
        """Write down a model call.

        Args:
            sigma: ``[batch]``.
            C: the model's prediction for the positive conditioning.
            guided: what the sampler gets.
            pushes: those that are there, by name.
        """
        at = [pushes.get(name, Pushed()) for name in self._names]
        self._sigmas.append(sigma)
        self._strengths.append([by_sample(each.strength) for each in at])
        self._posteriors.append([by_sample(each.posterior) for each in at])
        self._has_difference.append([each.R is not None for each in at])
        nothing = torch.zeros_like(C)
        vectors = [C, guided - C]
        for each in at:
            measured_from = C if each.D is None else each.D
            vectors.append(nothing if each.R is None else measured_from - each.R)
            vectors.append(nothing if each.added is None else each.added)
        flat = torch.stack([each.flatten(1) for each in vectors], dim=1).float()
        self._products.append(flat @ flat.mT)
        both = torch.stack((guided, C)).float().flatten(3)
        std, mean = torch.std_mean(both, dim=3, correction=0)
        self._statistics.append(torch.stack((mean[0] - mean[1], std[0] - std[1])))
        if C.ndim >= 4:
            unknown = torch.full_like(C[:1], float("nan"))
            shown = [C[:1], guided[:1], *(unknown if p.R is None else p.R[:1] for p in at)]
            self._reduced.append(_reduced(torch.cat(shown)))

    def finish(self, latent: Tensor) -> None:
        """Make the record of the run, and let the probe keep it.

        Args:
            latent: that the run has ended with.
        """
        if not self._sigmas:  # A guider that does not ask for predictions in ComfyUI's way.
            return
        products = torch.stack(self._products).cpu().double().numpy()
        mean_shift, std_shift = torch.stack(self._statistics, dim=1).cpu().double().numpy()
        norm, push, *_ = norms = np.sqrt(np.diagonal(products, axis1=2, axis2=3)).transpose(2, 0, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = products.transpose(2, 3, 0, 1) / (norms[:, None] * norms[None])
        pushes = {}
        for number, name in enumerate(self._names):
            difference, pushed = 2 + 2 * number, 3 + 2 * number
            there = np.array([has[number] for has in self._has_difference])
            if there.any():
                strengths = [each[number] for each in self._strengths]
                pushes[name] = PushReadings(
                    scale=self._by_sample([1.0 + each for each in strengths], norm),
                    difference=np.where(there[:, None], norms[difference], np.nan),
                    added=norms[pushed],
                    cosine=cosines[difference, 0],
                    parallel=cosines[pushed, 0] ** 2,
                    posterior=self._by_sample([each[number] for each in self._posteriors], norm),
                )
        numbers, marks = _marks(latent)
        record = Record(
            name=self._probe.name,
            sigma=self._by_sample(self._sigmas, norm),
            norm=norm,
            push=push,
            pushes=pushes,
            cosine=cosines[2, 4],
            mean_shift=mean_shift,
            std_shift=std_shift,
            thumbnails=self._thumbnails(list(pushes)),
            marks=marks,
            numbers=numbers,
        )
        self._probe.keep(record)

    @staticmethod
    def _by_sample(values: Sequence[float | Tensor | None], like: np.ndarray) -> np.ndarray:
        """Numbers, or tensors ``[batch]``, of each call as an array of the shape of ``like``."""
        rows = [
            value.cpu().double().numpy() if isinstance(value, torch.Tensor) else value
            for value in values
        ]
        out = np.full_like(like, np.nan)
        for row, value in zip(out, rows, strict=True):
            if value is not None:
                row[:] = value
        return out

    def _thumbnails(self, pushes: list[str]) -> Thumbnails | None:
        if not self._reduced:
            return None
        last = len(self._reduced) - 1
        calls = sorted({round(last * i / (_THUMBNAILS - 1)) for i in range(_THUMBNAILS)})
        # Not stacked: those of a sampler that enlarges the image have more than one size.
        chosen = [self._reduced[call].cpu().unbind() for call in calls]
        named = dict(zip(("C", "guided", *self._names), zip(*chosen, strict=True), strict=True))
        latents = {name: list(named[name]) for name in ("C", *pushes, "guided")}
        return Thumbnails(calls, latents, self._latent_format)


def _reduced(latents: Tensor) -> Tensor:
    """Average latents down to a few cells; of a video, its first frame."""
    if latents.ndim == 5:
        latents = latents[:, :, 0]
    height, width = latents.shape[-2:]
    times = max(height, width) / _CELLS
    if times > 1:
        size = (max(1, round(height / times)), max(1, round(width / times)))
        latents = F.adaptive_avg_pool2d(latents.float(), size)
    return latents.half()


def _marks(latent: Tensor) -> tuple[int, Tensor]:
    """How many numbers a latent has, and some of them."""
    # Sound and video together are several latents, which sampling has in one row.
    parts = latent.unbind() if latent.is_nested else [latent]
    flat = torch.cat([part.flatten(1) for part in parts], dim=1).flatten()
    every = -(-len(flat) // _MARKS)
    return len(flat), flat[::every].float().cpu()
