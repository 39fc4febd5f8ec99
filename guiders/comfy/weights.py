"""Layers and their weights: where they are, what patches them, and weak ones made of main ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.model_patcher import LowVramPatch, ModelPatcher

from .patchers import disown_pinned_weights, is_dynamic_patcher

if TYPE_CHECKING:
    from torch import Tensor


class OffloadableLayer(torch.nn.Module):
    """One tensor. As one of ComfyUI's own layers it may stay offloaded while others are loaded."""

    comfy_cast_weights = False
    bias = None

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.weight_function: list[Any] = []
        self.bias_function: list[Any] = []

    def values(self, device: torch.device) -> Tensor:
        """The tensor's numbers on a device.

        Where ComfyUI loads dynamically, the layer may have room on the card, in which the tensor
        stays from one use to the next as long as nothing else needs it. ComfyUI's own way of
        fetching is for one layer at a time, and this is wanted while another fetches.
        """
        if not hasattr(self, "_v") or type(self.weight) not in _PLAIN:
            there = self.weight.to(device)
            return there if type(there) in _PLAIN else there.dequantize()
        from comfy_aimdo import model_vbar
        from comfy_aimdo.torch import aimdo_to_tensor

        signature = model_vbar.vbar_fault(self._v)
        if signature is None:  # There is no room now.
            return self.weight.to(device)
        try:
            room = aimdo_to_tensor(self._v, device)[: self.weight.nbytes]
            there = room.view(self.weight.dtype).view(self.weight.shape)
            if not model_vbar.vbar_signature_compare(signature, self._v_signature):
                there.copy_(self.weight)
                self._v_signature = signature
            return there.clone()
        finally:
            model_vbar.vbar_unpin(self._v)


def layer_of(model: torch.nn.Module, key: str) -> tuple[torch.nn.Module, str]:
    """The module that has a weight, and the weight's name in it."""
    module_name, _, name = key.rpartition(".")
    return (comfy.utils.get_attr(model, module_name) if module_name else model), name


def value_of(model: torch.nn.Module, key: str) -> Any:
    """What a model has under a dotted name."""
    return comfy.utils.get_attr(model, key)


def exchange(owner: torch.nn.Module, name: str, value: Any) -> Any:
    """Put something under a dotted name; return what was there."""
    return comfy.utils.set_attr(owner, name, value)


def weight_functions(layer: torch.nn.Module, name: str) -> list[Callable[[Tensor], Tensor]] | None:
    """What a layer does to a weight at each use, but for ComfyUI's patches.

    None for a layer that is not ComfyUI's own, and does nothing at all.
    """
    functions = getattr(layer, f"{name}_function", None)
    if functions is None:
        return None
    return [each for each in functions if not isinstance(each, LowVramPatch)]


def use_functions(
    layer: torch.nn.Module, name: str, functions: list[Callable[[Tensor], Tensor]]
) -> Callable[[], None]:
    """Let a layer do this to a weight at each use; what is returned takes it back."""
    return _set_own(layer, f"{name}_function", functions)


def fetch_when_used(layer: torch.nn.Module) -> Callable[[], None] | None:
    """Let a layer fetch its weights from where they are; what is returned takes it back.

    None for a layer that cannot.
    """
    if not hasattr(layer, "comfy_cast_weights"):
        return None
    return _set_own(layer, "comfy_cast_weights", True)


def _set_own(layer: torch.nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Set a plain attribute; ComfyUI's layers have some of them on the class alone."""
    had, before = name in vars(layer), getattr(layer, name, None)
    setattr(layer, name, value)
    return lambda: setattr(layer, name, before) if had else delattr(layer, name)


def patched_on_the_fly(layer: torch.nn.Module, name: str) -> bool:
    """Whether ComfyUI patches this weight at each use: where it is offloaded, or loaded late."""
    functions = [*getattr(layer, f"{name}_function", ())]
    # Where models are loaded dynamically, which is in releases after 0.3.75.
    functions.append(getattr(layer, f"{name}_lowvram_function", None))
    return any(isinstance(function, LowVramPatch) for function in functions)


class Patching:
    """Makes the weights of ``weak`` out of those of a loaded ``main`` of the same base.

    To be entered. A pack's own patcher may keep no backup of what it patches, and some hang patches
    on the weight itself: such a patcher takes its patches off meanwhile, and puts them on again.
    """

    def __init__(self, main: ModelPatcher, weak: ModelPatcher) -> None:
        self._main = main
        self._in_its_own_way = patches_in_its_own_way(main)
        self._carried: dict[str, dict[str, Any]] = {}
        self._maker = main.clone()
        self._maker.patches = weak.patches
        # It would keep a copy of each weight that has no backup yet.
        self._maker.backup = dict.fromkeys(weak.patches)
        self._maker.weight_inplace_update = False
        disown_pinned_weights(self._maker)
        self._undo = ExitStack()

    def __enter__(self) -> Patching:
        if self._in_its_own_way and self._main.patches:
            weights = ((key, get_weight(self._main.model, key)) for key in self._main.patches)
            self._carried = {key: _carried_by(w) for key, w in weights if w is not None}
            self._undo.enter_context(_without_patches(self._main))
        return self

    def __exit__(self, *_: Any) -> None:
        self._undo.close()

    def make(self, key: str) -> torch.nn.Parameter | Carried:
        """One weight, on the offload device, or what it is to carry; what is in place stays."""
        if self._in_its_own_way:
            return self._make_in_its_own_way(key)
        main = self._main
        in_place = comfy.utils.get_attr(main.model, key)
        # A parameter of its own, for ComfyUI moves parameters by changing what they hold.
        base = base_of(main, key)
        layer, name = layer_of(main.model, key)
        # Dynamic loading keeps weights as the file has them.
        dtype = getattr(layer, f"{name}_comfy_model_dtype", None)
        if is_dynamic_patcher(main) and dtype is not None and type(base) in _PLAIN:
            base = base.to(dtype)
        made = self._patch(key, base, main.load_device)
        return _as_parameter(made.to(main.offload_device), in_place)

    def _make_in_its_own_way(self, key: str) -> torch.nn.Parameter | Carried:
        weight = comfy.utils.get_attr(self._main.model, key)
        twin = _twin(weight)
        if type(weight) not in _PLAIN:
            made = self._patch(key, twin, weight.device)
            if _is_alias(made, twin) and torch.equal(bare(twin), bare(weight)):
                return self._carried_anew(key, weight, made)
            twin = _twin(weight)
        made = self._patch(key, twin, self._main.load_device)
        return _as_parameter(made.to(self._main.offload_device), weight)

    def _carried_anew(self, key: str, weight: Tensor, made: Tensor) -> Carried:
        """What ``made`` carries, of all that patching changes."""
        clean = _carried_by(weight)
        patched = self._carried.get(key, clean)
        after = _carried_by(made)
        names = {
            name
            for name in patched.keys() | clean.keys() | after.keys()
            if not _same(patched.get(name, _ABSENT), clean.get(name, _ABSENT))
            or not _same(clean.get(name, _ABSENT), after.get(name, _ABSENT))
        }
        return Carried({name: after.get(name, _ABSENT) for name in names})

    def _patch(self, key: str, weight: Tensor, device: torch.device) -> Tensor:
        """Let ComfyUI, or the pack whose patcher it is, patch ``weight`` in the model's place."""
        model = self._main.model
        in_place = comfy.utils.get_attr(model, key)
        try:
            comfy.utils.set_attr_param(model, key, weight)
            self._maker.patch_weight_to_device(key, device_to=device)
            return comfy.utils.get_attr(model, key)
        finally:
            comfy.utils.set_attr(model, key, in_place)


@dataclass(frozen=True)
class Carried:
    """What a weight that applies its patches itself, at use, is to carry: attributes by name."""

    attributes: dict[str, Any]

    def put_on(self, weight: Tensor) -> Callable[[], None]:
        """Let a weight carry this; what is returned puts back what it carried before."""
        before = {name: vars(weight).get(name, _ABSENT) for name in self.attributes}
        _set_attributes(weight, self.attributes)
        return lambda: _set_attributes(weight, before)


_ABSENT = object()
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _set_attributes(weight: Tensor, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if value is not _ABSENT:
            setattr(weight, name, value)
        elif name in vars(weight):
            delattr(weight, name)


def _carried_by(weight: Tensor) -> dict[str, Any]:
    """The attributes of a weight, in containers of their own."""
    return {name: _copied(value) for name, value in vars(weight).items()}


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in (list, dict, set) else value


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, str | int | float) and a == b


def bare(weight: Tensor) -> Tensor:
    """The numbers or codes in a weight as a plain tensor, whatever its class makes of them."""
    if hasattr(weight, "_qdata"):  # ComfyUI's own quantised tensors
        return weight._qdata
    with torch._C.DisableTorchFunctionSubclass():
        return torch.Tensor.detach(weight)


def _twin(weight: Tensor) -> Tensor:
    """A weight of its own, of the same class: nothing done to it reaches the other."""
    values = bare(weight).clone()
    if type(weight) in _PLAIN:
        return values
    twin = torch.Tensor._make_subclass(type(weight), values, False)
    vars(twin).update(_carried_by(weight))
    return twin


def _is_alias(a: Tensor, b: Tensor) -> bool:
    return type(a) is type(b) and address(a) == address(b)


def address(weight: Tensor) -> tuple[torch.device, int]:
    """Where the numbers of a weight are."""
    return bare(weight).device, bare(weight).data_ptr()


def _as_parameter(made: Tensor, in_place: Tensor) -> torch.nn.Parameter:
    if isinstance(made, torch.nn.Parameter) and made is not in_place:
        return made
    return torch.nn.Parameter(made, requires_grad=False)


def patches_in_its_own_way(patcher: ModelPatcher) -> bool:
    """Whether a patcher is a pack's that does not leave it to ComfyUI to patch weights."""
    return type(patcher).patch_weight_to_device is not ModelPatcher.patch_weight_to_device


def get_weight(model: torch.nn.Module, key: str) -> Tensor | None:
    """A weight of a model; None where there is none of that name."""
    weight = comfy.model_patcher.get_key_weight(model, key)[0]
    return weight if isinstance(weight, torch.Tensor) else None


def base_of(patcher: ModelPatcher, key: str) -> Tensor | None:
    """A weight of a loaded model before ComfyUI's patches; None where the patcher knows of none."""
    if key in patcher.backup:
        return patcher.backup[key].weight
    if patches_in_its_own_way(patcher) and key in patcher.patches:
        return None
    return comfy.utils.get_attr(patcher.model, key)


@contextmanager
def _without_patches(patcher: ModelPatcher) -> Iterator[None]:
    """Let a patcher take its patches off its loaded and ejected model, and put them on again."""
    model = patcher.model
    room = model.model_loaded_weight_memory if model.model_lowvram else 1e32
    skipped, patcher.skip_injection = patcher.skip_injection, True
    try:
        patcher.unpatch_model(None, unpatch_weights=True)
        try:
            yield
        finally:
            patcher.partially_load(patcher.load_device, max(room, 0.1))
    finally:
        patcher.skip_injection = skipped


def patched_weight(model: ModelPatcher, key: str, device: torch.device) -> Tensor:
    """A weight with the patches of ``model``, in float32, whatever patches are in place now."""
    weight, _, convert = comfy.model_patcher.get_key_weight(model.model, key)
    if key in model.backup:
        weight = model.backup[key].weight
    elif key in model.hook_backup:
        weight = model.hook_backup[key][0]
    if patches_in_its_own_way(model) and not hasattr(weight, "_qdata"):
        weight = bare(weight)
    weight = comfy.model_management.cast_to_device(weight, device, torch.float32, copy=True)
    if convert is not None:
        weight = convert(weight, inplace=True)
    return comfy.lora.calculate_weight(model.patches.get(key, []), weight.float(), key)


def is_packed(model: ModelPatcher, key: str) -> bool:
    """Whether a weight holds codes that only the layer's own loader can read."""
    weight, _, convert = comfy.model_patcher.get_key_weight(model.model, key)
    return convert is None and not weight.dtype.is_floating_point


def is_scale_of_quantised_layer(layer: torch.nn.Module, name: str) -> bool:
    """Whether something beside a quantised weight is its scale, which patches must not touch."""
    return hasattr(layer, "convert_weight") and name not in ("weight", "bias")
