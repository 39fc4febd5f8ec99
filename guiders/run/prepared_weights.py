"""The tensors in which a weak model differs from a main model of the same base.

They are made once, by ComfyUI's own patching, and kept for as long as the weak model lives, unless
their base changes. To ComfyUI they are one more model: it counts them, loads them and moves them
out as it does with any. A weight that applies patches itself, at use, needs no tensor: of it only
the patches are kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .. import comfy
from ..comfy import Carried, ModelPatcher, OffloadableLayer
from ..models import differing_keys, fingerprints, same_numbers, same_objects

Patches = tuple[Any, ...]


class PreparedWeights:
    """A weak version's own tensors, as a model that ComfyUI manages.

    Attributes:
        patcher: what ComfyUI loads and moves out.
        carried: what weights are to carry that apply their patches themselves, by key.
    """

    def __init__(self, main: ModelPatcher) -> None:
        self.patcher = comfy.patcher_beside(main, WeakWeights())
        self.carried: dict[str, Carried] = {}
        self._layers: dict[str, OffloadableLayer] = {}
        self._sources: dict[str, _Source] = {}

    def can_be_loaded_with(self, main: ModelPatcher) -> bool:
        """Whether ComfyUI can have them where, and load them as, it does a main model."""
        same_way = comfy.is_dynamic_patcher(self.patcher) == comfy.is_dynamic_patcher(main)
        return same_way and self.patcher.load_device == main.load_device

    @property
    def tensors(self) -> dict[str, torch.nn.Parameter]:
        """The tensors by key, each wherever ComfyUI holds it at the moment."""
        return {key: layer.weight for key, layer in self._layers.items()}

    @property
    def layers(self) -> dict[str, OffloadableLayer]:
        """What has the tensors, by key."""
        return self._layers

    def update(self, main: ModelPatcher, weak: ModelPatcher) -> None:
        """Make what is missing and drop what is no longer needed.

        A tensor is kept while the weak model's patches of the key and the weight in the model stay
        the same, and while it is not, bit for bit, what ``main`` has in place.

        Args:
            main: patcher of the main model, loaded and without injections.
            weak: patcher of the weak model, of the same base.
        """
        sources = _sources(main, weak)
        missing = [key for key in sources if not self._has(key, sources[key])]
        made = self._made(missing, main, weak)
        layers: dict[str, OffloadableLayer] = {}
        carried: dict[str, Carried] = {}
        for key, source in sources.items():
            new = made.get(key)
            if isinstance(new, Carried) or (new is None and key in self.carried):
                carried[key] = new or self.carried[key]
                continue
            if new is None and self._sources[key].compared_like(source):
                if key in self._layers:
                    layers[key] = self._layers[key]
                continue
            layer = self._layers[key] if new is None else OffloadableLayer(new)
            in_place = comfy.value_of(main.model, key)
            if source.main_patches is None or not same_numbers(in_place, layer.weight):
                layers[key] = layer
        self._keep(layers, carried, sources)

    def _has(self, key: str, source: _Source) -> bool:
        """Whether what is known of a key still holds, be it that nothing is needed."""
        known = self._sources.get(key)
        if known is None or not known.makes_the_same_as(source):
            return False
        if key in self._layers:
            # What is the main model's now was its base's when it was kept.
            return source.main_patches is None or not source.is_in_place(self._layers[key].weight)
        return key in self.carried or known.compared_like(source)

    def _made(
        self, keys: list[str], main: ModelPatcher, weak: ModelPatcher
    ) -> dict[str, torch.nn.Parameter | Carried]:
        made = {}
        if keys:
            comfy.stop_if_cancelled()
            with comfy.Patching(main, weak) as patching:
                for key in keys:
                    comfy.stop_if_cancelled()
                    made[key] = patching.make(key)
        return made

    def _keep(
        self,
        layers: dict[str, OffloadableLayer],
        carried: dict[str, Carried],
        sources: dict[str, _Source],
    ) -> None:
        changed = layers != self._layers
        self._layers, self.carried, self._sources = layers, carried, sources
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
class _SeenPatches:
    """Patches to know again, which are not kept alive for it.

    A checkpoint that is the weak model lives on when the artist takes the LoRAs off the main one,
    and their tensors must not.

    Attributes:
        parts: all that they consist of, by weak reference where it is more than a number or name.
    """

    parts: tuple[Any, ...]

    @classmethod
    def of(cls, patches: Iterable[Any]) -> _SeenPatches:
        return cls(tuple(_weak_parts(patches)))

    def are(self, other: _SeenPatches) -> bool:
        """Whether these are the others, and all of them are still there."""
        return len(self.parts) == len(other.parts) and all(
            map(_is_same_part, self.parts, other.parts)
        )


def _weak_parts(patch: Any) -> Iterator[Any]:
    if isinstance(patch, tuple | list):
        yield len(patch)  # So that parts cannot go from one patch into the next.
        for part in patch:
            yield from _weak_parts(part)
    elif isinstance(patch, MethodType):  # Made anew each time that it is asked for.
        yield from _weak_parts((patch.__self__, patch.__func__))
    else:
        try:
            yield weakref.ref(patch)
        except TypeError:  # A number or a name, or None.
            yield patch


def _is_same_part(a: Any, b: Any) -> bool:
    if isinstance(a, weakref.ref) and isinstance(b, weakref.ref):
        return a() is not None and a() is b()
    return a is b or (isinstance(a, int | float | str) and type(a) is type(b) and a == b)


@dataclass(frozen=True)
class _Source:
    """What a weak tensor comes from, and what it has been compared with.

    Attributes:
        patches: those of the weak model.
        layer: the module that has the weight.
        dtype: of the weight.
        shape: of the weight.
        base: fingerprint of the weight before ComfyUI's patches, which others may change in place;
            0 where there is none to be found.
        in_place: fingerprint of the weight as it is in place.
        address: of the weight in place.
        main_patches: those of the main model, to know them again; None while they are applied on
            the fly, so that there is nothing in place to compare with.
    """

    patches: Patches
    layer: weakref.ref[torch.nn.Module]
    dtype: torch.dtype
    shape: torch.Size
    base: int
    in_place: int
    address: tuple[torch.device, int]
    main_patches: _SeenPatches | None

    def makes_the_same_as(self, other: _Source) -> bool:
        return (
            same_objects(self.patches, other.patches)
            and self.layer() is other.layer()
            and (self.dtype, self.shape, self.base) == (other.dtype, other.shape, other.base)
        )

    def compared_like(self, other: _Source) -> bool:
        return (
            self.main_patches is not None
            and other.main_patches is not None
            and self.main_patches.are(other.main_patches)
            and self.in_place == other.in_place
        )

    def is_in_place(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is one memory with the weight in place."""
        return comfy.address(tensor) == self.address


def _sources(main: ModelPatcher, weak: ModelPatcher) -> dict[str, _Source]:
    """Where the weak model's tensors come from, for all that it patches otherwise."""
    weights = {key: comfy.value_of(main.model, key) for key in differing_keys(main, weak)}
    # A buffer is what ComfyUI never patches.
    weights = {key: w for key, w in weights.items() if isinstance(w, torch.nn.Parameter)}
    bases = {key: comfy.base_of(main, key) for key in weights}
    base = fingerprints({key: b for key, b in bases.items() if b is not None})
    in_place = fingerprints(weights)

    def source(key: str, weight: torch.nn.Parameter) -> _Source:
        layer, name = comfy.layer_of(main.model, key)
        main_patches = None
        if not comfy.patched_on_the_fly(layer, name):
            main_patches = _SeenPatches.of(comfy.patches_of(main).get(key, ()))
        return _Source(
            patches=tuple(comfy.patches_of(weak).get(key, ())),
            layer=weakref.ref(layer),
            dtype=weight.dtype,
            shape=weight.shape,
            base=base.get(key, 0),
            in_place=in_place[key],
            address=comfy.address(weight),
            main_patches=main_patches,
        )

    return {key: source(key, weight) for key, weight in weights.items()}


_prepared: WeakKeyDictionary[ModelPatcher, PreparedWeights] = WeakKeyDictionary()


def prepared_weights(main: ModelPatcher, weak: ModelPatcher) -> PreparedWeights:
    """The tensors that are kept for a weak model: none at first, gone when it is gone.

    They belong to the weak model and not to the push, because a guider is made anew whenever the
    artist edits the prompt.
    """
    known = _prepared.get(weak)
    if known is None or not known.can_be_loaded_with(main):
        known = _prepared[weak] = PreparedWeights(main)
    return known
