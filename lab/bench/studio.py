"""Draw images of tiny models through the nodes, as a graph of an artist would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from comfyui.running import call, untouched
from node_pack import EMPTY_CLASS, conditioning
from tiny.judge import CLASSES
from tiny.sampling import SAMPLER, SCHEDULER, Conditioning, load_model

STEPS = 16

# From a studio and the class that is drawn to inputs of Bad-Version Guider.
Inputs = Callable[["Studio", int], dict[str, Any]]


@dataclass(frozen=True)
class Files:
    """Where the models of a studio lie.

    Attributes:
        main: the model that draws.
        vae: its autoencoder.
        weak: bad versions by name.
    """

    main: Path
    vae: Path
    weak: Mapping[str, Path]


class Studio:
    """Models of one kind of images, and what the nodes draw with them.

    Args:
        nodes: all node classes by node id.
        files: of the models.
        taken_for: for each class the one that it is most easily taken for: its negative prompt.
        sampler: ComfyUI's name of it.
        steps: of a run.
    """

    def __init__(
        self,
        nodes: Mapping[str, type],
        files: Files,
        taken_for: list[int],
        sampler: str = SAMPLER,
        steps: int = STEPS,
    ) -> None:
        self._sampler, self._steps = sampler, steps
        self._nodes = nodes
        self._files = files
        self._taken_for = taken_for
        self._made: dict[tuple[Any, ...], Any] = {}

    @cached_property
    def main(self) -> ModelPatcher:
        """The main model, as Load Diffusion Model gives it."""
        return load_model(self._files.main)

    @cached_property
    def vae(self) -> comfy.sd.VAE:
        """The autoencoder, as Load VAE gives it where bfloat16 is its precision.

        On a CPU that is five times as fast, along with this layout.
        """
        weights = comfy.utils.load_torch_file(str(self._files.vae))
        vae = comfy.sd.VAE(sd=weights, dtype=torch.bfloat16)
        vae.first_stage_model.to(memory_format=torch.channels_last)
        return vae

    def weak(self, name: str) -> ModelPatcher:
        """Another checkpoint that is a bad version of the main one."""
        return self.once(("weak", name), lambda: load_model(self._files.weak[name]))

    def node(self, node_id: str, **inputs: Any) -> Any:
        """The first output of a node; inputs that are not given are as the node comes."""
        node = self._nodes[node_id]
        return call(node, **{**untouched(node), **inputs})[0]

    def weakened(self, node_id: str, **inputs: Any) -> ModelPatcher:
        """The main model, made a bad version of itself; the same one for the same inputs."""
        key = (node_id, *sorted(inputs.items()))
        return self.once(key, lambda: self.node(node_id, model=self.main, **inputs))

    def empty(self) -> Conditioning:
        """The empty prompt."""
        return conditioning(EMPTY_CLASS)

    def negative(self, label: int) -> Conditioning:
        """A negative prompt: what this class is most easily taken for."""
        return conditioning(self._taken_for[label])

    def draw(self, inputs: Inputs, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw as many images of each class.

        Args:
            inputs: of Bad-Version Guider, beside model and positive prompt.
            count: how many images; ten divides it.
            seed: of the noise, which is the same for all ways to guide.

        Returns:
            Images ``[count, 64, 64, 3]`` in 0..1 and their classes, ``[count]``.
        """
        each = count // CLASSES
        drawn = [
            self._sample(inputs(self, label), label, each, CLASSES * seed + label)
            for label in range(CLASSES)
        ]
        return torch.cat(drawn), torch.arange(CLASSES).repeat_interleave(each)

    def passes(self, inputs: Inputs) -> float:
        """What one step costs, in passes of the main model: by multiplications and additions."""
        return self._work(inputs) / self._unguided_work

    @cached_property
    def _unguided_work(self) -> float:
        return self._work(lambda studio, label: {"weak_scale": 1.0})

    def _work(self, inputs: Inputs) -> float:
        arguments = inputs(self, 0)
        self._latent(arguments, 0, 1, 0)  # What is made once for all runs is not counted.
        counter = FlopCounterMode(display=False)
        with counter:
            self._latent(arguments, 0, 1, 0)
        return float(counter.get_total_flops())

    @torch.inference_mode()
    def _sample(self, arguments: dict[str, Any], label: int, count: int, seed: int) -> Tensor:
        latent = self._latent(arguments, label, count, seed)
        return self.vae.decode(latent["samples"]).float().cpu()

    @torch.inference_mode()
    def _latent(
        self, arguments: dict[str, Any], label: int, count: int, seed: int
    ) -> dict[str, Tensor]:
        guider = self.node(
            "BadVersionGuider", model=self.main, positive=conditioning(label), **arguments
        )
        latent = {"samples": torch.zeros(count, 16, 8, 8)}
        return self.node(
            "SamplerCustomAdvanced",
            noise=self.node("RandomNoise", noise_seed=seed),
            guider=guider,
            sampler=self.node("KSamplerSelect", sampler_name=self._sampler),
            sigmas=self.node(
                "BasicScheduler",
                model=self.main,
                scheduler=SCHEDULER,
                steps=self._steps,
                denoise=1.0,
            ),
            latent_image=latent,
        )

    def once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """What has been made under this key, now if not before."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
