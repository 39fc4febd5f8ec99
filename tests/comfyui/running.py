"""Nodes executed and runs sampled inside this process, as ComfyUI's graph and its sampler do.

Importable once `library.prepare` has made ComfyUI's own modules so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

Conditioning = list[list[Any]]


def call(node: type, **inputs: Any) -> tuple[Any, ...]:
    """Execute a node class of either schema version, as the graph would, and return its outputs."""
    if issubclass(node, io.ComfyNode):
        return node.execute(**inputs).result
    return getattr(node(), node.FUNCTION)(**inputs)


def in_graph(node: type[io.ComfyNode], node_id: str) -> type[io.ComfyNode]:
    """A node class as ComfyUI prepares it to execute the node of this id in a graph."""
    hidden = {"UNIQUE_ID": node_id}
    # Releases after 0.3.75 hand over more than the hidden inputs.
    wrapped = hasattr(io, "V3Data")
    return node.PREPARE_CLASS_CLONE({"hidden_inputs": hidden} if wrapped else hidden)


def untouched(node: type) -> dict[str, Any]:
    """The values that the widgets of a node come with, whichever its schema version."""
    if issubclass(node, io.ComfyNode):
        inputs = node.define_schema().inputs
        defaults = {each.id: getattr(each, "default", None) for each in inputs}
    else:
        inputs = [each for group in node.INPUT_TYPES().values() for each in group.items()]
        defaults = {name: of[1].get("default") for name, of in inputs if len(of) > 1}
    return {name: default for name, default in defaults.items() if default is not None}


@dataclass
class Recording:
    """What one model call after the other was given and predicted."""

    x: list[Tensor] = field(default_factory=list)
    sigma: list[Tensor] = field(default_factory=list)
    denoised: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.x)


class _Replay(comfy.samplers.Sampler):
    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.denoised: list[Tensor] = []

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], *_: Any, **__: Any
    ) -> Tensor:
        for x, sigma in zip(self.recording.x, self.recording.sigma, strict=True):
            self.denoised.append(model_wrap(x, sigma, **extra_args))
        return self.recording.x[0]


@dataclass(frozen=True)
class Run:
    """Everything about a sampling run but the guider."""

    latent: Tensor
    sigmas: Tensor
    sampler: str | comfy.samplers.Sampler = "euler"
    mask: Tensor | None = None
    seed: int = 7

    @classmethod
    def of(
        cls,
        model: ModelPatcher,
        shape: tuple[int, ...] = (2, 16, 8, 8),
        steps: int = 3,
        scheduler: str = "simple",
        **rest: Any,
    ) -> Run:
        """A text-to-image run with the model's own noise schedule."""
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
        return cls(torch.zeros(shape), sigmas, **rest)

    def with_(self, **changes: Any) -> Run:
        """The same run with some things changed."""
        return replace(self, **changes)

    def sample(
        self, guider: comfy.samplers.CFGGuider, callback: Callable[..., None] | None = None
    ) -> Tensor:
        """Sample as SamplerCustomAdvanced does."""
        sampler = self.sampler
        if isinstance(sampler, str):
            sampler = comfy.samplers.sampler_object(sampler)
        return self._enter(guider, sampler, callback)

    def replay(self, guider: comfy.samplers.CFGGuider, recording: Recording) -> list[Tensor]:
        """What ``guider`` predicts at each recorded latent and sigma."""
        replay = _Replay(recording)
        self._enter(guider, replay, None)
        return replay.denoised

    def _enter(
        self,
        guider: comfy.samplers.CFGGuider,
        sampler: comfy.samplers.Sampler,
        callback: Callable[..., None] | None,
    ) -> Tensor:
        noise = comfy.sample.prepare_noise(self.latent, self.seed)
        return guider.sample(
            noise,
            self.latent,
            sampler,
            self.sigmas,
            denoise_mask=self.mask,
            callback=callback,
            disable_pbar=True,
            seed=self.seed,
        )


def core_guider(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning | None = None,
    cfg: float = 1,
) -> comfy.samplers.CFGGuider:
    """ComfyUI's own guider; without ``negative`` its prediction is the conditional one."""
    guider = comfy.samplers.CFGGuider(model)
    conds = {"positive": positive} | ({} if negative is None else {"negative": negative})
    guider.inner_set_conds(conds)
    guider.set_cfg(cfg)
    return guider
