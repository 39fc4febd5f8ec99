"""Small stand-ins for what other packs do to a model that ours works beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.lora
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

# ------------------------------------------------------------------------ weights and their patches


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
