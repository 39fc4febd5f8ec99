"""A weak model that shares its weights with the main one: same base, other patches.

ComfyUI loads such a pair as one model, so only one of the two patch sets can be in place. Here the
tensors that differ are exchanged, by pointer, around each weak pass. That is how ComfyUI itself
puts patched weights in place, so it holds for every weight that ComfyUI can patch, in 8 bits,
quantised or offloaded. Where ComfyUI loads weights dynamically it computes with copies of its own,
and the tensors come in by the layers' weight functions, as offloaded LoRAs do. Weight hooks could
not stand in there: ComfyUI has none for dynamically loaded and for quantised weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import comfy.model_patcher
import comfy.utils
import torch
from comfy.model_patcher import LowVramPatch

from ..models import loads_dynamically
from .prepared_weights import (
    disown_pinned_weights,
    layer_of,
    prepared_weights,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor


def run_patcher(main: ModelPatcher, weak: ModelPatcher) -> ModelPatcher:
    """Return a patcher with the weights of ``main`` and everything else of ``weak``.

    ComfyUI can set a weak run up with it while ``main`` stays loaded: to model management the two
    are the same weights, so nothing is patched or moved. Tensors that were prepared for ``weak`` in
    an earlier run are loaded along.
    """
    patcher = main.clone()
    patcher.model_options = comfy.model_patcher.create_model_options_clone(weak.model_options)
    patcher.wrappers = weak.wrappers
    patcher.callbacks = weak.callbacks
    patcher.injections = weak.injections
    patcher.attachments = weak.attachments
    patcher.additional_models = dict(weak.additional_models)
    prepared = prepared_weights(main, weak)
    if prepared.tensors:
        patcher.set_additional_models("bad_version_weights", [prepared.patcher])
    patcher.hook_patches = comfy.model_patcher.create_hook_patches_clone(weak.hook_patches)
    # What hooks have cached was made on top of the main model's weights.
    patcher.cached_hook_patches = {}
    disown_pinned_weights(patcher)
    return patcher


def can_swap(patcher: ModelPatcher) -> bool:
    """Whether a loaded model computes with the very weights that its layers point to."""
    return not loads_dynamically(patcher)


class WeightSwap:
    """The weak version's own tensors and objects, and the way in and out of the shared model.

    Make it once the shared model is loaded with the patches of ``main``.

    Args:
        main: patcher of the running main model.
        weak: the artist's weak model, a patcher of the same base.
        runner: what :func:`run_patcher` made of the two.
    """

    def __init__(self, main: ModelPatcher, weak: ModelPatcher, runner: ModelPatcher) -> None:
        self._main = main
        self._runner = runner
        self._model = main.model
        self._objects = _differing_objects(main, weak)
        self._prepared = prepared_weights(main, weak)
        with main.use_ejected(), runner.use_ejected():
            self._prepared.update(main, weak)

    @property
    def changes_nothing(self) -> bool:
        """Whether the weak version's weights and objects are, bit for bit, those in place."""
        return not self._objects and not self._prepared.tensors

    @property
    def models_to_load(self) -> list[ModelPatcher]:
        """What ComfyUI must load along with the main model."""
        return [self._prepared.patcher] if self._prepared.tensors else []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Turn the shared model into the weak version; turn it back, whatever happens inside."""
        with ExitStack() as undo:
            # Hooks of the main pass sit in the weights themselves until the next pass.
            self._main.patch_hooks(None)
            undo.callback(setattr, self._model, "current_patcher", self._model.current_patcher)
            self._model.current_patcher = self._runner
            undo.enter_context(self._main.use_ejected())
            for name, value in self._objects.items():
                _set(undo, self._model, name, value)
            by_pointer = can_swap(self._main)
            for key, tensor in self._prepared.tensors.items():
                layer, name = layer_of(self._model, key)
                if by_pointer or not hasattr(layer, f"{name}_function"):
                    self._swap(undo, layer, name, tensor)
                else:
                    self._stand_in(undo, layer, name, tensor)
            self._runner.inject_model()
            undo.callback(self._runner.eject_model)
            # Undone first: hooks write into whichever tensors are in place.
            undo.callback(self._runner.patch_hooks, None)
            yield

    def _swap(
        self, undo: ExitStack, layer: torch.nn.Module, name: str, tensor: torch.nn.Parameter
    ) -> None:
        """Point the layer to the tensor, and let it fetch the tensor where that is offloaded."""
        functions = getattr(layer, f"{name}_function", [])
        if functions:
            _set_own(undo, layer, f"{name}_function", _without_patches(functions))
        if tensor.device != self._runner.load_device:
            if hasattr(layer, "comfy_cast_weights"):
                _set_own(undo, layer, "comfy_cast_weights", True)
            else:
                on_device = tensor.to(self._runner.load_device)
                tensor = torch.nn.Parameter(on_device, requires_grad=False)
        _set(undo, layer, name, tensor)

    def _stand_in(
        self, undo: ExitStack, layer: torch.nn.Module, name: str, tensor: torch.nn.Parameter
    ) -> None:
        """Let the layer compute with the tensor, whichever weight ComfyUI gets for it."""
        functions = _without_patches(getattr(layer, f"{name}_function"))
        _set_own(undo, layer, f"{name}_function", [_always(tensor), *functions])


def _without_patches(functions: list[Callable[[Tensor], Tensor]]) -> list[Any]:
    """Leave out the main model's patches, which ComfyUI applies on the fly."""
    return [function for function in functions if not isinstance(function, LowVramPatch)]


def _always(tensor: Tensor) -> Callable[[Tensor], Tensor]:
    """A weight function that returns ``tensor``, where and in the dtype in which it is wanted."""

    def replaced(weight: Tensor) -> Tensor:
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
        values = tensor if plain else tensor.dequantize()
        return values.to(device=weight.device, dtype=weight.dtype)

    return replaced


def _set(undo: ExitStack, owner: torch.nn.Module, name: str, value: Any) -> None:
    previous = comfy.utils.set_attr(owner, name, value)
    undo.callback(comfy.utils.set_attr, owner, name, previous)


def _set_own(undo: ExitStack, layer: torch.nn.Module, name: str, value: Any) -> None:
    """Set a plain attribute; ComfyUI's layers have some of them on the class alone."""
    if name in vars(layer):
        undo.callback(setattr, layer, name, getattr(layer, name))
    else:
        undo.callback(delattr, layer, name)
    setattr(layer, name, value)


def _differing_objects(main: ModelPatcher, weak: ModelPatcher) -> dict[str, Any]:
    """Object patches (a noise schedule, say) of the weak version that are not in place."""

    def of(patcher: ModelPatcher, name: str) -> Any:
        if name in patcher.object_patches:
            return patcher.object_patches[name]
        return main.object_patches_backup.get(name, comfy.utils.get_attr(main.model, name))

    names = main.object_patches.keys() | weak.object_patches.keys()
    return {name: of(weak, name) for name in names if of(weak, name) is not of(main, name)}
