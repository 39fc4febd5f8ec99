"""The same base with weaker weights: one more ComfyUI weight patch on a clone of the model.

ComfyUI lets a weight adapter (a LoRA, for example) return whatever weight it likes. A degradation
is such an adapter, so it comes after the patches that were there before it and before those added
later, and goes wherever ComfyUI patches weights: at loading, on the fly for offloaded weights, in
hooks and in model merges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .. import comfy
from ..comfy import WeightAdapterBase
from ..errors import bad_input
from ..models import differing_keys, name_of
from . import degradations
from .perturbations import generator_for

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import ModelPatcher

# From a weight and its key to the weaker weight: a new tensor of the same shape and dtype.
Degrade = Callable[["Tensor", str], "Tensor"]

_PREFIX = "diffusion_model."


class Degradation(WeightAdapterBase):
    """A weight patch that replaces the weight it is given, instead of adding to it.

    Args:
        loaded_keys: of a file; there are none.
        weights: likewise.
    """

    name = "bad version"
    degrade: Degrade

    def __init__(self, loaded_keys: set[str], weights: list[Tensor]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def by(cls, degrade: Degrade) -> Degradation:
        """Return the patch that degrades in one way, and so do copies that ComfyUI makes of it.

        Where weights are loaded dynamically, ComfyUI calls the class of a patch anew.

        Args:
            degrade: must give the same for the same weight and key, since ComfyUI calls it for an
                offloaded weight at each use.
        """
        return type(cls.__name__, (cls,), {"degrade": staticmethod(degrade)})(set(), [])

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """Return the degraded weight; hooks may ask for a part of the way by ``strength``."""
        degraded = self.degrade(weight, key)
        if strength == 1.0:
            return degraded
        return torch.lerp(weight.float(), degraded.float(), strength).to(weight.dtype)


def against_base(
    node: str, model: ModelPatcher, base: ModelPatcher, *, amount: float
) -> ModelPatcher:
    """Move every weight towards another model of the same architecture: ``W + amount · (B − W)``.

    Both ``W`` and ``B`` have the LoRAs and merges of their own model; the strength of LoRAs that
    ComfyUI injects beside the weights goes as far. What is stored beside the
    weights (tables of positions, the scales of quantised layers) stays that of ``model``.

    Args:
        node: display name of the artist's node, with the inputs 'base_model' and 'amount'.
        model: the finetune.
        base: what it was made from: another checkpoint, or the same one with other patches.
        amount: 1 is the base itself, 0 the model; above 1 goes past the base.

    Returns:
        A clone of ``model``. It reads a weight of ``base`` whenever it makes the weaker one.

    Raises:
        GuidanceError: for another architecture, for a base that is the model itself, for one that
            has injected LoRAs in a model of its own, and for an amount that changes nothing.
    """
    _check_number(node, "amount", amount, neutral=0.0)
    weights, base_weights = _weights(model), _weights(base)
    _check_fit(node, model, base, weights, base_weights)
    keys = list(weights)
    if base.is_clone(model):
        keys = [key for key in differing_keys(model, base) if key in weights]
    loras, base_loras = comfy.injected_loras(model), comfy.injected_loras(base)
    if base_loras and not base.is_clone(model):
        raise bad_input(
            node,
            "base_model",
            f"{name_of(base)} with a LoRA that its loader puts beside the weights (bypass), where "
            "another model cannot have it",
            "a base with LoRAs from an ordinary LoRA loader, or without LoRAs",
        )
    towards = [(*lora, 1.0 - amount) for lora in loras if lora not in base_loras]
    towards += [(*lora, amount) for lora in base_loras if lora not in loras]
    if not keys and not towards:
        raise bad_input(
            node,
            "base_model",
            f"the very weights that 'model' ({name_of(model)}) has",
            "the checkpoint that 'model' was finetuned from, or the model from before its LoRAs",
        )

    def towards_base(W: Tensor, key: str) -> Tensor:
        B = comfy.patched_weight(base, key, W.device)
        if B.shape != W.shape:
            raise bad_input(
                node,
                "base_model",
                f"a model whose {key} becomes {_size(B)} by its LoRAs, where that of 'model' "
                f"becomes {_size(W)}",
                "LoRAs that leave the size of a weight as it is, or the same such LoRA on both",
            )
        return torch.lerp(W.float(), B, amount).to(W.dtype)

    weak = _degraded(model, keys, towards_base)
    for key, lora, factor in towards:
        comfy.scale_injected_lora(weak, key, lora, factor)
    return weak


def without_loras(node: str, model: ModelPatcher, *, keep: float) -> ModelPatcher:
    """Multiply the strength of every LoRA on a model.

    LoRAs and all that ComfyUI handles like them (LoHa, LoKr, plain differences, …), in the weights
    or injected beside them; merged models and degradations stay as they are.

    Args:
        node: display name of the artist's node, with the inputs 'model' and 'keep'.
        model: a model with LoRAs.
        keep: 0 takes the LoRAs off; 1 would leave them as they are.

    Raises:
        GuidanceError: for a model without LoRAs, and for a ``keep`` that changes nothing.
    """
    _check_number(node, "keep", keep, neutral=1.0)
    patches, injected = comfy.patches_of(model), comfy.injected_loras(model)
    if not injected and not any(
        _is_lora(patch) for of_weight in patches.values() for patch in of_weight
    ):
        raise bad_input(
            node,
            "model",
            f"{name_of(model)} without a LoRA",
            "a model that comes from a LoRA loader; without LoRAs, another Weaken node",
        )

    def scaled(patch: tuple[Any, ...]) -> tuple[Any, ...]:
        return (keep * patch[0], *patch[1:]) if _is_lora(patch) else patch

    kept = {
        key: [scaled(patch) for patch in of_weight if keep != 0.0 or not _is_lora(patch)]
        for key, of_weight in patches.items()
    }
    weak = model.clone()
    comfy.set_patches(weak, {key: of_weight for key, of_weight in kept.items() if of_weight})
    for key, lora in injected:
        comfy.scale_injected_lora(weak, key, lora, keep)
    return weak


def with_noise(
    node: str, model: ModelPatcher, *, amount: float, seed: int, keys: Collection[str]
) -> ModelPatcher:
    """Add noise to chosen weights: :func:`degradations.add_relative_noise`.

    Args:
        node: display name of the artist's node, with the inputs 'amount' and 'blocks'.
        model: any model.
        amount: noise relative to each weight's own spread.
        seed: gives, with the key of a weight, its noise.
        keys: what to choose from, ``diffusion_model.….weight``. Of these the matrices and kernels
            of layers are degraded; biases, norms and tables stay.

    Raises:
        GuidanceError: where no weight is left, and for an amount that changes nothing.
    """
    _check_number(node, "amount", amount, neutral=0.0)

    def noisy(W: Tensor, key: str) -> Tensor:
        return degradations.add_relative_noise(W, amount, generator_for("cpu", seed, key))

    return _degraded(model, _matrices(node, model, keys), noisy)


def with_fewer_bits(
    node: str, model: ModelPatcher, *, bits: int, keys: Collection[str]
) -> ModelPatcher:
    """Round chosen weights to a few bits per output channel: :func:`degradations.quantize`.

    Args:
        node: display name of the artist's node, with the inputs 'bits' and 'blocks'.
        model: any model.
        bits: 2..16.
        keys: as for :func:`with_noise`.

    Raises:
        GuidanceError: where no weight is left, and for bits out of range.
    """
    if not 2 <= bits <= 16:
        raise bad_input(node, "bits", str(bits), "2 to 16; 2 to 5 weaken a model visibly")

    def rounded(W: Tensor, key: str) -> Tensor:
        return degradations.quantize(W, bits)

    return _degraded(model, _matrices(node, model, keys), rounded)


def with_low_rank(
    node: str, model: ModelPatcher, *, keep: float, keys: Collection[str]
) -> ModelPatcher:
    """Take the small singular values from chosen weights: :func:`degradations.truncate_rank`.

    Args:
        node: display name of the artist's node, with the inputs 'keep' and 'blocks'.
        model: any model.
        keep: share of each weight's rank that stays; below 1.
        keys: as for :func:`with_noise`.

    Raises:
        GuidanceError: where no weight is left, and for a ``keep`` that changes nothing.
    """
    _check_number(node, "keep", keep, neutral=1.0)
    if not 0.0 <= keep < 1.0:
        raise bad_input(node, "keep", str(keep), "0 to 1, and less than 1: a share of the rank")

    def low_rank(W: Tensor, key: str) -> Tensor:
        return degradations.truncate_rank(W, keep)

    return _degraded(model, _matrices(node, model, keys), low_rank)


def _degraded(model: ModelPatcher, keys: Collection[str], degrade: Degrade) -> ModelPatcher:
    weak = model.clone()
    weak.add_patches(dict.fromkeys(keys, Degradation.by(degrade)), 1.0, 1.0)
    return weak


def _weights(model: ModelPatcher) -> dict[str, Tensor]:
    """The diffusion model's weights by key: parameters that hold real numbers.

    Left out are the scales of quantised layers, which ComfyUI applies before and after patches.
    """

    def is_weight(key: str, parameter: Tensor) -> bool:
        owner, _, name = key.rpartition(".")
        scale = comfy.is_scale_of_quantised_layer(modules[owner], name)
        return _holds_real_numbers(parameter) and not scale

    modules = dict(model.model.named_modules())
    return {
        key: parameter
        for key, parameter in model.model.named_parameters()
        if key.startswith(_PREFIX) and is_weight(key, parameter)
    }


def _holds_real_numbers(weight: Tensor) -> bool:
    """A quantised tensor is a class of its own, whose dtype is that of the codes inside."""
    plain = type(weight) in (torch.Tensor, torch.nn.Parameter)
    return weight.dtype.is_floating_point or not plain


def _matrices(node: str, model: ModelPatcher, keys: Collection[str]) -> list[str]:
    """Those of ``keys`` that are the weight, of two or more dimensions, of a layer.

    A table that belongs to no layer may have as many, but ComfyUI patches it only where a weak
    version shares its base with the main model: it would depend on that what the weak version is.
    """
    chosen = set(keys)
    found = [
        key
        for key, weight in _weights(model).items()
        if key in chosen and key.endswith(".weight") and len(weight.shape) >= 2
    ]
    if not found:
        raise bad_input(
            node,
            "blocks",
            f"a choice in which {name_of(model)} has no weight matrix",
            "blocks with linear or convolution layers",
        )
    return found


def _check_number(node: str, name: str, value: float, *, neutral: float) -> None:
    if not math.isfinite(value):
        raise bad_input(node, name, str(value), "a finite number")
    if value == neutral:
        raise bad_input(
            node, name, f"{value:g}, which changes nothing", f"another number than {neutral:g}"
        )


def _check_fit(
    node: str,
    model: ModelPatcher,
    base: ModelPatcher,
    weights: Mapping[str, Tensor],
    base_weights: Mapping[str, Tensor],
) -> None:
    def misfit(key: str) -> str | None:
        if key not in base_weights:
            return f"{key} is missing"
        if base_weights[key].shape != weights[key].shape:
            return f"{key} is {_size(base_weights[key])} instead of {_size(weights[key])}"
        if comfy.is_packed(base, key):
            return f"{key} is packed in a way that only its own loader can read"
        return None

    misfits = [text for text in map(misfit, weights) if text is not None]
    if misfits:
        more = f", and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise bad_input(
            node,
            "base_model",
            f"{name_of(base)}, of which {len(misfits)} of {len(weights)} weights do not fit "
            f"({', '.join(misfits[:3])}{more})",
            f"a model of the same architecture and size as 'model' ({name_of(model)}): the "
            "checkpoint that it was finetuned from",
        )


def _size(weight: Tensor) -> str:
    return "×".join(map(str, weight.shape)) or "a single number"


def _is_lora(patch: tuple[Any, ...]) -> bool:
    strength, value, strength_model, *_ = patch
    merged = isinstance(value, list) or strength_model != 1.0
    return strength != 0.0 and not merged and not isinstance(value, Degradation)
