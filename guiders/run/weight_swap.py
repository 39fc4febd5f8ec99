"""A weak model that shares its weights with the main one: same base, other patches.

ComfyUI loads such a pair as one model, so only one of the two patch sets can be in place. Here the
tensors that differ are exchanged, by pointer, around each weak pass. That is how ComfyUI itself
puts patched weights in place, so it holds for every weight that ComfyUI can patch, in 8 bits,
quantised or offloaded. Where ComfyUI loads weights dynamically it computes with copies of its own,
and the tensors come in by the layers' weight functions, as offloaded LoRAs do. Weight hooks could
not stand in there: ComfyUI has none for dynamically loaded and for quantised weights. A weight that
applies its patches itself, at use, gets those of the weak version for the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from .. import comfy
from ..weaken.network import state_set_aside
from .prepared_weights import prepared_weights

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import ModelPatcher


def run_patcher(main: ModelPatcher, weak: ModelPatcher) -> ModelPatcher:
    """Return a patcher with the weights of ``main`` and everything else of ``weak``.

    ComfyUI can set a weak run up with it while ``main`` stays loaded: to model management the two
    are the same weights, so nothing is patched or moved. Tensors that were prepared for ``weak`` in
    an earlier run are loaded along.
    """
    patcher = comfy.runner(main, weak)
    prepared = prepared_weights(main, weak)
    if prepared.tensors:
        patcher.set_additional_models("bad_version_weights", [prepared.patcher])
    return patcher


def can_swap(patcher: ModelPatcher) -> bool:
    """Whether a loaded model computes with the very weights that its layers point to."""
    return not comfy.loads_dynamically(patcher)


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
        self._objects = comfy.differing_objects(main, weak)
        self._prepared = prepared_weights(main, weak)
        with comfy.without_injections(main), comfy.without_injections(runner):
            self._prepared.update(main, weak)

    @property
    def changes_nothing(self) -> bool:
        """Whether the weak version's weights and objects are, bit for bit, those in place."""
        prepared = self._prepared
        return not (self._objects or prepared.tensors or prepared.carried)

    @property
    def models_to_load(self) -> list[ModelPatcher]:
        """What ComfyUI must load along with the main model."""
        return [self._prepared.patcher] if self._prepared.tensors else []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Turn the shared model into the weak version; turn it back, whatever happens inside."""
        with ExitStack() as undo:
            undo.enter_context(comfy.exchanged(self._main, self._runner))
            if not self.changes_nothing:
                undo.enter_context(state_set_aside(self._main.get_model_object("diffusion_model")))
            for name, value in self._objects.items():
                _exchange(undo, self._model, name, value)
            by_pointer = can_swap(self._main)
            for key, own in self._prepared.layers.items():
                layer, name = comfy.layer_of(self._model, key)
                functions = comfy.weight_functions(layer, name)
                if by_pointer or functions is None:
                    self._swap(undo, layer, name, own.weight, functions)
                else:
                    # Whichever weight ComfyUI gets for the layer, it computes with the tensor.
                    stand_in = [_always(own), *functions]
                    undo.callback(comfy.use_functions(layer, name, stand_in))
            for key, carried in self._prepared.carried.items():
                undo.callback(carried.put_on(comfy.value_of(self._model, key)))
            undo.enter_context(comfy.running_as(self._runner))
            yield

    def _swap(
        self,
        undo: ExitStack,
        layer: torch.nn.Module,
        name: str,
        tensor: torch.nn.Parameter,
        functions: list[Callable[[Tensor], Tensor]] | None,
    ) -> None:
        """Point the layer to the tensor, and let it fetch the tensor where that is offloaded."""
        if functions is not None:
            undo.callback(comfy.use_functions(layer, name, functions))
        if tensor.device != self._runner.load_device:
            back = comfy.fetch_when_used(layer)
            if back is not None:
                undo.callback(back)
            else:
                on_device = tensor.to(self._runner.load_device)
                tensor = torch.nn.Parameter(on_device, requires_grad=False)
        _exchange(undo, layer, name, tensor)


def _always(own: comfy.OffloadableLayer) -> Callable[[Tensor], Tensor]:
    """A weight function that returns a tensor, where and in the dtype in which it is wanted."""
    return lambda weight: own.values(weight.device).to(dtype=weight.dtype)


def _exchange(undo: ExitStack, owner: torch.nn.Module, name: str, value: Any) -> None:
    undo.callback(comfy.exchange, owner, name, comfy.exchange(owner, name, value))
