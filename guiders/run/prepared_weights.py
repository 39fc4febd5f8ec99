"""The tensors in which a weak model differs from a main model of the same base.

They are made once, by ComfyUI's own patching, and kept for as long as the weak model lives. To
ComfyUI they are one more model: it counts them, loads them and moves them out as it does with any.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .. import comfy
from ..comfy import ModelPatcher, OffloadableLayer
from ..models import differing_keys, same_numbers, same_objects

Patches = tuple[Any, ...]


class PreparedWeights:
    """A weak version's own tensors, as a model that ComfyUI manages.

    Attributes:
        patcher: what ComfyUI loads and moves out.
    """

    def __init__(self, main: ModelPatcher) -> None:
        self.patcher = ModelPatcher(WeakWeights(), main.load_device, main.offload_device)
        self._layers: dict[str, OffloadableLayer] = {}
        self._sources: dict[str, _Source] = {}

    @property
    def tensors(self) -> dict[str, torch.nn.Parameter]:
        """The tensors by key, each wherever ComfyUI holds it at the moment."""
        return {key: layer.weight for key, layer in self._layers.items()}

    def update(self, main: ModelPatcher, weak: ModelPatcher) -> None:
        """Make what is missing and drop what is no longer needed.

        A tensor is kept while the weak model's patches of the key and the layer in the model stay
        the same, and while it is not, bit for bit, what ``main`` has in place.

        Args:
            main: patcher of the main model, loaded and without injections.
            weak: patcher of the weak model, of the same base.
        """
        patching: comfy.Patching | None = None
        layers: dict[str, OffloadableLayer] = {}
        sources: dict[str, _Source] = {}
        for key in differing_keys(main, weak):
            in_place = comfy.value_of(main.model, key)
            if not isinstance(in_place, torch.nn.Parameter):
                continue  # A buffer, which ComfyUI never patches.
            source = _Source.of(main, weak, key)
            known = self._sources.get(key)
            again = known is not None and known.makes_the_same_as(source)
            if again and known.compared_like(source):
                sources[key] = known
                if key in self._layers:
                    layers[key] = self._layers[key]
                continue
            if again and key in self._layers:
                layer = self._layers[key]
            else:
                comfy.stop_if_cancelled()
                patching = patching or comfy.Patching(main, weak)
                layer = OffloadableLayer(patching.make(key))
            sources[key] = source
            if source.main_patches is None or not same_numbers(in_place, layer.weight):
                layers[key] = layer
        self._keep(layers, sources)

    def _keep(self, layers: dict[str, OffloadableLayer], sources: dict[str, _Source]) -> None:
        changed = layers != self._layers
        self._layers, self._sources = layers, sources
        if changed:
            # ComfyUI loads the others anew, with the new ones.
            comfy.unload(self.patcher)
            self.patcher.model.hold(layers)


class WeakWeights(torch.nn.Module):
    """A model that is nothing but tensors; its name is what ComfyUI's log shows."""

    def hold(self, layers: dict[str, OffloadableLayer]) -> None:
        """Replace everything by these layers."""
        self._modules.clear()
        for key, layer in layers.items():
            self.add_module(key.replace(".", "/"), layer)


@dataclass(frozen=True)
class _Source:
    """What a weak tensor comes from, and what it has been compared with.

    Attributes:
        patches: those of the weak model.
        layer: the module that has the weight.
        dtype: of the weight.
        shape: of the weight.
        main_patches: those of the main model; None while they are applied on the fly, so that
            there is nothing in place to compare with.
    """

    patches: Patches
    layer: weakref.ref[torch.nn.Module]
    dtype: torch.dtype
    shape: torch.Size
    main_patches: Patches | None

    @classmethod
    def of(cls, main: ModelPatcher, weak: ModelPatcher, key: str) -> _Source:
        layer, name = comfy.layer_of(main.model, key)
        weight = getattr(layer, name)
        return cls(
            patches=tuple(comfy.patches_of(weak).get(key, ())),
            layer=weakref.ref(layer),
            dtype=weight.dtype,
            shape=weight.shape,
            main_patches=(
                None
                if comfy.patched_on_the_fly(layer, name)
                else tuple(comfy.patches_of(main).get(key, ()))
            ),
        )

    def makes_the_same_as(self, other: _Source) -> bool:
        return (
            same_objects(self.patches, other.patches)
            and self.layer() is other.layer()
            and (self.dtype, self.shape) == (other.dtype, other.shape)
        )

    def compared_like(self, other: _Source) -> bool:
        return (
            self.main_patches is not None
            and other.main_patches is not None
            and same_objects(self.main_patches, other.main_patches)
        )


_prepared: WeakKeyDictionary[ModelPatcher, PreparedWeights] = WeakKeyDictionary()


def prepared_weights(main: ModelPatcher, weak: ModelPatcher) -> PreparedWeights:
    """The tensors that are kept for a weak model: none at first, gone when it is gone.

    They belong to the weak model and not to the push, because a guider is made anew whenever the
    artist edits the prompt.
    """
    known = _prepared.get(weak)
    if known is None or known.patcher.load_device != main.load_device:
        known = _prepared[weak] = PreparedWeights(main)
    return known
