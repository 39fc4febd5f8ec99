"""Other packs in the same graph: small stand-ins of the kinds that artists have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import comfy.lora
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

Predict = Callable[..., Tensor]


def _wrapped(model: ModelPatcher, around: Callable[[Predict, dict[str, Any]], Tensor]) -> Any:
    """A clone whose every pass goes through ``around``, as packs wrap a U-Net's function."""
    wrapped = model.clone()
    wrapped.set_model_unet_function_wrapper(around)
    return wrapped


def _predict(apply_model: Predict, args: dict[str, Any]) -> Tensor:
    return apply_model(args["input"], args["timestep"], **args["c"])


def step_cache(model: ModelPatcher, *, by_index: bool) -> ModelPatcher:
    """Skips every other step: gives again what the step before has left on the network.

    Args:
        by_index: it tells predictions apart by the index of their conditioning, or not at all.
    """
    network = model.model.diffusion_model

    def around(apply_model: Predict, args: dict[str, Any]) -> Tensor:
        sigma = float(args["timestep"].max())
        key = tuple(args["cond_or_uncond"]) if by_index else "all"
        cache = getattr(network, "step_cache", {})
        before, count, out = cache.get(key, (0.0, 0, None))
        if sigma > before:
            count = 0  # Another run.
        if count % 2 == 0 or out.shape != args["input"].shape:
            out = _predict(apply_model, args)
        network.step_cache = {**cache, key: (sigma, count + 1, out)}
        return out

    return _wrapped(model, around)


def shared_step_cache(model: ModelPatcher) -> ModelPatcher:
    """The same, with a cache of its own that no one else can reach."""
    cache: dict[float, Tensor] = {}

    def around(apply_model: Predict, args: dict[str, Any]) -> Tensor:
        sigma = float(args["timestep"].max())
        if sigma not in cache:
            cache.clear()
            cache[sigma] = _predict(apply_model, args)[:1]
        return cache[sigma].expand(len(args["input"]), *cache[sigma].shape[1:]).clone()

    return _wrapped(model, around)


def block_cache(model: ModelPatcher) -> ModelPatcher:
    """Tells passes apart by their order within a step, and takes half of each from the one before.

    As caches of a first block do, which know nothing of conditionings.
    """
    outputs: dict[int, Tensor] = {}
    at: dict[str, float] = {"sigma": 0.0, "number": 0}

    def around(apply_model: Predict, args: dict[str, Any]) -> Tensor:
        sigma = float(args["timestep"].max())
        if sigma > at["sigma"]:
            outputs.clear()  # Another run.
        at["number"] = at["number"] + 1 if sigma == at["sigma"] else 0
        at["sigma"] = sigma
        out = _predict(apply_model, args)
        before = outputs.get(at["number"])
        outputs[at["number"]] = out
        return out if before is None or before.shape != out.shape else (out + before) / 2

    return _wrapped(model, around)


def two_entries(model: ModelPatcher) -> ModelPatcher:
    """Has something for a positive and for a negative conditioning, and picks it by their index."""
    entries = [1.02, 0.97]

    def around(apply_model: Predict, args: dict[str, Any]) -> Tensor:
        out = _predict(apply_model, args)
        parts = out.chunk(len(args["cond_or_uncond"]))
        chosen = zip(parts, args["cond_or_uncond"], strict=True)
        return torch.cat([part * entries[index] for part, index in chosen])

    return _wrapped(model, around)


def mixing_prompts(model: ModelPatcher) -> ModelPatcher:
    """Pushes the positive prediction away from the negative one inside each pass that has both.

    As normalized attention guidance does inside of attention.
    """

    def around(apply_model: Predict, args: dict[str, Any]) -> Tensor:
        out = _predict(apply_model, args)
        if {0, 1} <= set(args["cond_or_uncond"]):
            parts = list(out.chunk(len(args["cond_or_uncond"])))
            at = {index: place for place, index in enumerate(args["cond_or_uncond"])}
            parts[at[0]] = parts[at[0]] + 0.3 * (parts[at[0]] - parts[at[1]])
            out = torch.cat(parts)
        return out

    mixing = _wrapped(model, around)
    mixing.model_options["disable_cfg1_optimization"] = True
    return mixing


def writing_into_predictions(model: ModelPatcher) -> ModelPatcher:
    """Changes both predictions in place before they are combined."""
    changed = model.clone()

    def before_cfg(args: dict[str, Any]) -> list[Tensor]:
        for out in args["conds_out"]:
            out.mul_(0.9)
        return args["conds_out"]

    changed.set_model_sampler_pre_cfg_function(before_cfg)
    return changed


class PositiveOnly(comfy.samplers.CFGGuider):
    """At a cfg of 1 gives the positive prediction as it is, and asks no CFG function."""

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: Any = 0,
    ) -> Tensor:
        (C,) = comfy.samplers.calc_cond_batch(
            self.inner_model, [self.conds["positive"]], x, timestep, model_options
        )
        return C


class OfItsOwn(PositiveOnly):
    """Makes something of its own of the positive prediction, and asks no CFG function."""

    def predict_noise(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().predict_noise(*args, **kwargs) * 0.99


def breaking(model: ModelPatcher, error: Exception) -> ModelPatcher:
    """Fails at every pass."""

    def around(apply_model: Predict, args: dict[str, Any]) -> Tensor:
        raise error

    return _wrapped(model, around)


def spoiling(model: ModelPatcher, at_call: int = 0) -> ModelPatcher:
    """Predicts NaN from one of its calls on."""
    calls: dict[str, int] = defaultdict(int)

    def around(apply_model: Predict, args: dict[str, Any]) -> Tensor:
        calls["so far"] += 1
        out = _predict(apply_model, args)
        return out * float("nan") if calls["so far"] > at_call else out

    return _wrapped(model, around)


# Weights and their patches


class SelfPatched(torch.nn.Parameter):
    """A weight that carries its own patches, and applies them whenever it is used.

    Quantised GGUF tensors are of this kind. Copies of it are the weight itself.
    """

    def __new__(cls, data: Tensor) -> SelfPatched:
        weight = torch.Tensor._make_subclass(cls, data, False)
        weight.patches = []
        return weight

    def to(self, *_: Any, **__: Any) -> SelfPatched:
        return self

    def detach(self) -> SelfPatched:
        return self

    def clone(self, *_: Any, **__: Any) -> SelfPatched:
        return self

    def patched(self) -> Tensor:
        """What a layer computes with."""
        with torch._C.DisableTorchFunctionSubclass():
            weight = torch.Tensor.clone(self.as_subclass(torch.Tensor))
        for patches, key in self.patches:
            weight = comfy.lora.calculate_weight(patches, weight, key)
        return weight

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.functional.linear:
            args = [a.patched() if isinstance(a, cls) else a for a in args]
        return super().__torch_function__(func, types, args, kwargs or {})


class SelfPatchedPatcher(ModelPatcher):
    """Hangs patches on such weights, and keeps no backup of them."""

    def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
        weight = comfy.utils.get_attr(self.model, key)
        if not isinstance(weight, SelfPatched):
            return super().patch_weight_to_device(key, *args, **kwargs)
        if key in self.patches:
            weight.patches.append((self.patches[key], key))
        return None

    def load(self, *args: Any, force_patch_weights: bool = False, **kwargs: Any) -> Any:
        # Offloaded weights, too, have their patches on them.
        return super().load(*args, force_patch_weights=True, **kwargs)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
        if unpatch_weights:
            for weight in self.model.parameters():
                if isinstance(weight, SelfPatched):
                    weight.patches = []
        return super().unpatch_model(device_to, unpatch_weights)


class InPlacePatcher(ModelPatcher):
    """Writes patches into the very memory of the weights, with copies in a place of its own."""

    def patch_weight_to_device(self, key: str, *_: Any, **__: Any) -> None:
        if key not in self.patches:
            return
        weight = comfy.utils.get_attr(self.model, key)
        saved = self.model.__dict__.setdefault("saved_in_place", {})
        if key not in saved:
            saved[key] = weight.detach().clone()
        values = saved[key].float().clone()
        weight.detach().copy_(comfy.lora.calculate_weight(self.patches[key], values, key))

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
        if unpatch_weights:
            for key, values in self.model.__dict__.pop("saved_in_place", {}).items():
                comfy.utils.get_attr(self.model, key).detach().copy_(values)
        return super().unpatch_model(device_to, unpatch_weights)


def as_patcher(kind: type[ModelPatcher], model: ModelPatcher) -> ModelPatcher:
    """A fresh model as a pack's loader returns it, with a patcher of its own kind."""
    patcher = kind(model.model, model.load_device, model.offload_device)
    if kind is SelfPatchedPatcher:
        for module in model.model.diffusion_model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight = SelfPatched(module.weight.detach())
    return patcher


def injecting(model: ModelPatcher) -> ModelPatcher:
    """A LoRA beside the attention weights, put in only while the model runs.

    As ComfyUI's bypass loader does, where this release has one.
    """
    generator = torch.Generator().manual_seed(5)
    lora = {}
    for key, weight in model.model.state_dict().items():
        if "att" in key and key.endswith(".weight") and weight.ndim == 2:
            rows, columns = weight.shape
            up = torch.randn(rows, 2, generator=generator) / rows**0.5
            down = torch.randn(2, columns, generator=generator) / columns**0.5
            name = key.removesuffix(".weight")
            lora |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    injected, _ = comfy.sd.load_bypass_lora_for_models(model, None, lora, 1.0, 0.0)
    assert injected.injections
    return injected
