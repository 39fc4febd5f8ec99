"""A weak model that shares its weights with the main one: same base, other patches.

ComfyUI loads such a pair as one model, so only one of the two patch sets can be in place. Here the
tensors that differ are made once per run and exchanged, by pointer, around each weak pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import comfy.model_patcher
import comfy.utils
import torch

from .compatibility import same_numbers

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def run_patcher(main: ModelPatcher, weak: ModelPatcher) -> ModelPatcher:
    """Return a patcher with the weights of ``main`` and everything else of ``weak``.

    ComfyUI can set a weak run up with it while ``main`` stays loaded: to model management the two
    are the same weights, so nothing is patched or moved.
    """
    patcher = main.clone()
    patcher.model_options = comfy.model_patcher.create_model_options_clone(weak.model_options)
    patcher.wrappers = weak.wrappers
    patcher.callbacks = weak.callbacks
    patcher.injections = weak.injections
    patcher.attachments = weak.attachments
    patcher.additional_models = weak.additional_models
    patcher.hook_patches = comfy.model_patcher.create_hook_patches_clone(weak.hook_patches)
    # What hooks have cached was made on top of the main model's weights.
    patcher.cached_hook_patches = {}
    _disown_pinned_weights(patcher)
    return patcher


def same_patches(main: ModelPatcher, weak: ModelPatcher) -> bool:
    """Whether two patchers of one base carry the very same weight patches."""
    return not _differing_keys(main, weak)


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
        self._tensors = _differing_tensors(main, weak)

    @property
    def changes_nothing(self) -> bool:
        """Whether the weak version's weights are, bit for bit, those in place."""
        if self._objects or self._model.model_lowvram:
            return False
        return all(
            same_numbers(comfy.utils.get_attr(self._model, key), tensor)
            for key, tensor in self._tensors.items()
        )

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
            for key, tensor in self._tensors.items():
                _set(undo, self._model, key, tensor)
                self._silence_on_the_fly_patches(undo, key)
            self._runner.inject_model()
            undo.callback(self._runner.eject_model)
            # Undone first: hooks write into whichever tensors are in place.
            undo.callback(self._runner.patch_hooks, None)
            yield

    def _silence_on_the_fly_patches(self, undo: ExitStack, key: str) -> None:
        """The tensor swapped in has its patches applied; an offloaded module would add main's."""
        module_name, _, parameter = key.rpartition(".")
        module = comfy.utils.get_attr(self._model, module_name) if module_name else self._model
        functions = getattr(module, f"{parameter}_function", None)
        if functions:
            patch = comfy.model_patcher.LowVramPatch
            kept = [f for f in functions if not isinstance(f, patch)]
            _set(undo, module, f"{parameter}_function", kept)


def _set(undo: ExitStack, owner: torch.nn.Module, name: str, value: Any) -> None:
    previous = comfy.utils.set_attr(owner, name, value)
    undo.callback(comfy.utils.set_attr, owner, name, previous)


def _differing_objects(main: ModelPatcher, weak: ModelPatcher) -> dict[str, Any]:
    """Object patches (a noise schedule, say) of the weak version that are not in place."""

    def of(patcher: ModelPatcher, name: str) -> Any:
        if name in patcher.object_patches:
            return patcher.object_patches[name]
        return main.object_patches_backup.get(name, comfy.utils.get_attr(main.model, name))

    names = main.object_patches.keys() | weak.object_patches.keys()
    return {name: of(weak, name) for name in names if of(weak, name) is not of(main, name)}


def _differing_tensors(main: ModelPatcher, weak: ModelPatcher) -> dict[str, torch.nn.Parameter]:
    """Make the tensors in which the weak version differs, each as ComfyUI itself would patch it."""
    maker = main.clone()
    maker.patches = weak.patches
    maker.backup = {}
    maker.weight_inplace_update = False
    _disown_pinned_weights(maker)

    tensors = {}
    with main.use_ejected():
        for key in _differing_keys(main, weak):
            tensors[key] = _patched_tensor(main, maker, key)
    return tensors


def _patched_tensor(main: ModelPatcher, maker: ModelPatcher, key: str) -> torch.nn.Parameter:
    """Let ``maker`` patch one weight of the shared model, take the result and put all back."""
    in_place = comfy.utils.get_attr(main.model, key)
    try:
        if key in main.backup:
            comfy.utils.set_attr_param(main.model, key, main.backup[key].weight)
        maker.patch_weight_to_device(key, device_to=in_place.device)
        tensor = comfy.utils.get_attr(main.model, key)
    finally:
        comfy.utils.set_attr(main.model, key, in_place)
    # The backup of a patched weight may have been kept on another device.
    on_device = tensor if tensor.device == in_place.device else tensor.to(in_place.device)
    return torch.nn.Parameter(on_device.detach(), requires_grad=False)


def _differing_keys(main: ModelPatcher, weak: ModelPatcher) -> list[str]:
    """Weights that the two patch otherwise.

    Clones share the patch tuples themselves, so identity tells what was added later.
    """

    def patches(patcher: ModelPatcher, key: str) -> list[int]:
        return [id(patch) for patch in patcher.patches.get(key, [])]

    keys = sorted(main.patches.keys() | weak.patches.keys())
    return [key for key in keys if patches(main, key) != patches(weak, key)]


def _disown_pinned_weights(patcher: ModelPatcher) -> None:
    """A clone shares the record of pinned weights, and would unpin them for all when it goes."""
    patcher.pinned = set()
