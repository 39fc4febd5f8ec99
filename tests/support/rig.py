"""A bench on which guided predictions are taken apart with nothing but ComfyUI's own code.

``record`` writes down what a guided model predicts at every model call of a run. ``Run.replay``
asks any other guider, at the very same latents and sigmas and within the same run (mask, latent
image, conditioning), what it predicts. From those separate predictions a test builds the closed
form by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from comfyui.running import Conditioning, Recording, Run, core_guider

# Tests take these from here as well, beside what takes predictions apart.
from comfyui.running import call as call
from comfyui.running import in_graph as in_graph
from comfyui.running import untouched as untouched

TOLERANCE = 1e-5


def record(model: ModelPatcher) -> tuple[ModelPatcher, Recording]:
    """Return a clone of the model that writes down every guided prediction."""
    recording = Recording()

    def predict_noise(
        executor: Callable[..., Tensor], x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        denoised = executor(x, timestep, *args, **kwargs)
        recording.x.append(x.clone())
        recording.sigma.append(timestep.clone())
        recording.denoised.append(denoised.clone())
        return denoised

    recorded = model.clone()
    recorded.add_wrapper(WrappersMP.PREDICT_NOISE, predict_noise)
    return recorded, recording


def _restarting(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], *_: Any, **__: Any
) -> Tensor:
    """Euler's method that goes back to more noise once, and on from there."""
    path = [sigmas[step] for step in (0, 1, 2, 1, 2)]
    generator = torch.Generator().manual_seed(2)
    for sigma, following in zip(path, [*path[1:], sigmas[-1]], strict=True):
        denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
        if following < sigma:
            x = denoised + (x - denoised) * following / sigma
        else:
            x = x + following * torch.randn(x.shape, generator=generator)
    return x


# Of a run of three steps: for each model call the earlier one from which the step to it starts.
# All between two steps, and all that a sampler only tries, starts there and leads nowhere.
STARTS: dict[str, list[int | None]] = {
    "euler": [None, 0, 1],
    "euler_ancestral": [None, 0, 1],
    "heun": [None, 0, 0, 2, 2],
    "dpm_2": [None, 0, 0, 2, 2],
    "dpm_2_ancestral": [None, 0, 0, 2, 2],
    "dpmpp_2s_ancestral": [None, 0, 0, 2, 2],
    "dpmpp_sde": [None, 0, 0, 2, 2],
    "restart": [None, 0, 1, 0, 3],
}


def sampler_of(name: str) -> str | comfy.samplers.Sampler:
    """What to sample with, for a name in ``STARTS``."""
    return comfy.samplers.KSAMPLER(_restarting) if name == "restart" else name


def unguided(model: ModelPatcher) -> ModelPatcher:
    """A clone of the model without what acts on the result of classifier-free guidance."""
    plain = model.clone()
    for name in [n for n in plain.model_options if n.startswith(("sampler_", "disable_cfg1"))]:
        del plain.model_options[name]
    return plain


def sampling_twice(model: ModelPatcher) -> ModelPatcher:
    """The model as another pack would wrap it that samples twice and keeps the second."""
    twice = model.clone()
    twice.add_wrapper(
        WrappersMP.OUTER_SAMPLE,
        lambda executor, *args, **kwargs: [executor(*args, **kwargs) for _ in range(2)][1],
    )
    return twice


def alone(
    run: Run, recording: Recording, model: ModelPatcher, *prompts: Conditioning
) -> list[list[Tensor]]:
    """What a model predicts from each of some prompts with no guidance, call by call."""
    return [run.replay(core_guider(unguided(model), prompt), recording) for prompt in prompts]


def of_sample(recording: Recording, sample: int) -> Recording:
    """One sample of a recorded batch."""
    rows = slice(sample, sample + 1)
    parts = (recording.x, recording.sigma, recording.denoised)
    return Recording(*([tensor[rows] for tensor in part] for part in parts))


def assert_as_alone(run: Run, guider: comfy.samplers.CFGGuider, recording: Recording) -> None:
    """At each recorded call, every sample of the batch is predicted as it is by itself."""
    assert len(recording) > 0
    for i in range(len(run.latent)):
        one = of_sample(recording, i)
        denoised = run.with_(latent=run.latent[i : i + 1]).replay(guider, one)
        assert all(map(close, denoised, one.denoised))


def close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether two tensors agree to a tolerance relative to the norm of the expected one."""
    return bool((actual - expected).norm() <= tolerance * expected.norm())


@dataclass(frozen=True)
class Pushes:
    """The closed form of a run: which models, which conditionings, which scales.

    ``main`` is the model without this pack's push, with whatever else is stacked on it.
    """

    main: ModelPatcher
    positive: Conditioning
    negative: Conditioning | None = None
    cfg: float = 1.0
    weak: ModelPatcher | None = None
    weak_scale: float = 1.0
    weak_positive: Conditioning | None = None

    def assert_hold(self, run: Run, recording: Recording) -> None:
        """Every recorded prediction equals core's own plus the weak push, to 1e-5."""
        assert len(recording) > 0
        expected = run.replay(
            core_guider(self.main, self.positive, self.negative, self.cfg), recording
        )
        if self.weak is not None:
            C = run.replay(core_guider(unguided(self.main), self.positive), recording)
            R = run.replay(
                core_guider(unguided(self.weak), self.weak_positive or self.positive), recording
            )
            pushes = [(self.weak_scale - 1) * (c - r) for c, r in zip(C, R, strict=True)]
            for push, guided in zip(pushes, expected, strict=True):
                assert push.norm() > 100 * TOLERANCE * guided.norm(), "the push would not be seen"
            expected = [e + push for e, push in zip(expected, pushes, strict=True)]
        for step, (actual, wanted) in enumerate(zip(recording.denoised, expected, strict=True)):
            assert close(actual, wanted), f"model call {step} is off"


def each(formula: Callable[..., Tensor], *tensors: Tensor | float) -> Tensor:
    """Compute a formula for each sample by itself, in 64 bits; numbers go into it as they are."""
    batch = next(len(tensor) for tensor in tensors if isinstance(tensor, Tensor))
    rows = (
        [t[row].double() if isinstance(t, Tensor) else t for t in tensors] for row in range(batch)
    )
    return torch.stack([formula(*row) for row in rows]).float()


def along(a: Tensor, v: Tensor) -> Tensor:
    """What of one sample lies along the direction of another."""
    return (a * v).sum() / (v * v).sum() * v


def at_most(a: Tensor, limit: float) -> Tensor:
    """One sample, no longer than a limit."""
    return a * min(1.0, float(limit / a.norm()))


@contextmanager
def count_model_calls(*models: ModelPatcher) -> Iterator[list[int]]:
    """Count how often each model is evaluated, at the lowest door: ``BaseModel.apply_model``."""
    counts = [0] * len(models)

    def counted(index: int, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def apply_model(*args: Any, **kwargs: Any) -> Tensor:
            counts[index] += 1
            return original(*args, **kwargs)

        return apply_model

    for index, model in enumerate(models):
        model.model.apply_model = counted(index, model.model.apply_model)
    try:
        yield counts
    finally:
        for model in models:
            del model.model.apply_model


@contextmanager
def batch_sizes(model: ModelPatcher) -> Iterator[list[int]]:
    """Note how many latents are in each evaluation of a model."""
    sizes: list[int] = []
    original = model.model.apply_model

    def apply_model(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sizes.append(len(x))
        return original(x, *args, **kwargs)

    model.model.apply_model = apply_model
    try:
        yield sizes
    finally:
        del model.model.apply_model


@contextmanager
def small_card(room: int) -> Iterator[list[bool]]:
    """A device on which there is always room for so many bytes of each model, and no more.

    Yields a list that fills with whether a model was left partly offloaded, once per loading.
    """
    offloaded: list[bool] = []

    def partially_load(
        self: ModelPatcher, device_to: torch.device, extra_memory: float = 0, **options: Any
    ) -> int:
        allowed = max(0.1, min(extra_memory, room - self.loaded_size()))
        loaded = original(self, device_to, allowed, **options)
        offloaded.append(self.model.model_lowvram)
        return loaded

    original = ModelPatcher.partially_load
    comfy.model_management.unload_all_models()
    ModelPatcher.partially_load = partially_load
    try:
        yield offloaded
    finally:
        ModelPatcher.partially_load = original
        comfy.model_management.unload_all_models()


def weight_hook(weights: dict[str, Any], *keyframes: tuple[float, float]) -> comfy.hooks.HookGroup:
    """A LoRA as a hook for a conditioning; keyframes are pairs of a strength and a start, 0..1."""
    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    hook.weights = weights
    hook.need_weight_init = False
    for strength, start in keyframes:
        hook.hook_keyframe.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return group


def added_weights(model: ModelPatcher) -> dict[str, Any]:
    """What is patched onto a model that has one patch on each weight, as hooks take it."""
    return {key: patch[1] for key, (patch,) in model.patches.items()}


def add_weights(model: ModelPatcher, strength: float = 0.3, seed: int = 3) -> ModelPatcher:
    """A clone with a LoRA-like patch: a random addition to every attention matrix."""
    generator = torch.Generator().manual_seed(seed)
    patches = {
        key: ("diff", (torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5,))
        for key, weight in model.model.state_dict().items()
        if "att" in key and weight.ndim == 2
    }
    assert patches
    patched = model.clone()
    patched.add_patches(patches, strength)
    return patched
