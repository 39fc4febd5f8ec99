"""Patchers: what one asks of ComfyUI, and how the models of several are loaded and exchanged."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import comfy.model_patcher
import comfy.utils
import torch
from comfy.context_windows import ContextHandlerABC
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection, WrappersMP

from .runs import CFG, POST_CFG, PRE_CFG

if TYPE_CHECKING:
    from .runs import InnerConditioning

# -------------------------------------------------------------------------- what a patcher asks for

# Keys of options and wrappers that act on the guided result or on the run around it, rather than on
# a single prediction.
_SAMPLER_SIDE = {
    CFG,
    PRE_CFG,
    POST_CFG,
    "disable_cfg1_optimization",
    WrappersMP.OUTER_SAMPLE,
    WrappersMP.PREPARE_SAMPLING,
    WrappersMP.SAMPLER_SAMPLE,
    WrappersMP.PREDICT_NOISE,
}


def set_up(patcher: ModelPatcher) -> tuple[Any, ...]:
    """What a patcher asks of ComfyUI for each prediction, its weights aside; to be compared."""
    hooks = patcher.hook_patches_backup
    return (
        patcher.object_patches,
        _model_side(patcher.model_options),
        _without_empty(patcher.injections),
        _model_side(patcher.wrappers),
        # Without those of the conditionings of a run.
        set(patcher.hook_patches if hooks is None else hooks),
    )


def _model_side(options: Mapping[str, Any]) -> dict[str, Any]:
    return _without_empty({k: v for k, v in options.items() if k not in _SAMPLER_SIDE})


def _without_empty(options: Mapping[str, Any]) -> dict[str, Any]:
    """Drop empty containers, at any depth: ComfyUI leaves them behind wherever it has looked."""
    kept = {k: _without_empty(v) if isinstance(v, Mapping) else v for k, v in options.items()}
    return {k: v for k, v in kept.items() if not (isinstance(v, dict | list) and len(v) == 0)}


def is_context_handler(value: Any) -> bool:
    """Whether something is what shows a model a part of a video at a time."""
    return isinstance(value, ContextHandlerABC)


def patches_of(patcher: ModelPatcher) -> dict[str, Any]:
    """The weight patches of a patcher by key, each a list of tuples."""
    return patcher.patches


def set_patches(patcher: ModelPatcher, patches: dict[str, Any]) -> None:
    """Give a clone other weight patches, and let ComfyUI see that they are others."""
    patcher.patches = patches
    patcher.patches_uuid = uuid.uuid4()


def differing_objects(main: ModelPatcher, weak: ModelPatcher) -> dict[str, Any]:
    """Object patches (a noise schedule, say) of ``weak`` that are not in place while ``main`` is.

    Args:
        main: loaded.
        weak: of the same base.
    """

    def of(patcher: ModelPatcher, name: str) -> Any:
        if name in patcher.object_patches:
            return patcher.object_patches[name]
        return main.object_patches_backup.get(name, comfy.utils.get_attr(main.model, name))

    names = main.object_patches.keys() | weak.object_patches.keys()
    return {name: of(weak, name) for name in names if of(weak, name) is not of(main, name)}


# ----------------------------------------------------------------------------- LoRAs beside weights

# Of this module are what the bypass LoRA loader injects, which came after 0.3.75: it leaves the
# weights as they are, and adds what a LoRA computes to what its layer does.
_BYPASS = "comfy.weight_adapter.bypass"


class _ScaledLora(PatcherInjection):
    """Injected LoRAs with another strength, which they have only while they are injected.

    Args:
        lora: a bypass loader's injection.
        factor: of its strength.
    """

    def __init__(self, lora: PatcherInjection, factor: float) -> None:
        super().__init__(self._inject, self._eject)
        self._lora = lora
        self._factor = factor
        self._before: list[tuple[Any, float]] = []

    def _inject(self, patcher: ModelPatcher) -> None:
        modules = list(patcher.model.modules())
        before = [vars(module).get("forward") for module in modules]
        self._lora.inject(patcher)
        for module, forward in zip(modules, before, strict=True):
            injected = vars(module).get("forward")
            if injected is not forward:
                adapter = injected.__self__.adapter
                self._before.append((adapter, adapter.multiplier))
                adapter.multiplier *= self._factor

    def _eject(self, patcher: ModelPatcher) -> None:
        while self._before:
            adapter, multiplier = self._before.pop()
            adapter.multiplier = multiplier
        self._lora.eject(patcher)


def injected_loras(patcher: ModelPatcher) -> list[tuple[str, PatcherInjection]]:
    """The LoRAs that a patcher injects beside the weights, each with its key."""
    return [
        (key, injection)
        for key, injections in patcher.injections.items()
        for injection in injections
        if isinstance(injection, _ScaledLora) or injection.inject.__module__ == _BYPASS
    ]


def scale_injected_lora(clone: ModelPatcher, key: str, lora: PatcherInjection, by: float) -> None:
    """Multiply the strength of one of :func:`injected_loras` in a clone; 0 takes it out.

    Where the clone has it not, it gets it with a part of its strength.
    """
    there = list(clone.injections.get(key, ()))
    if lora not in there:
        there.append(lora)
    new = [each for each in there if each is not lora or by != 0.0]
    clone.injections[key] = [_ScaledLora(each, by) if each is lora else each for each in new]


# ----------------------------------------------------------------------------------- loaded models


def loads_dynamically(patcher: ModelPatcher) -> bool:
    """Whether ComfyUI fetches weights as they are needed; no release up to 0.3.75 does."""
    is_dynamic = getattr(patcher, "is_dynamic", None)
    return is_dynamic is not None and is_dynamic()


def has_all_weights_in_place(patcher: ModelPatcher) -> bool:
    """Whether all patched weights of a loaded model are in its layers, none patched on the fly."""
    return not patcher.model.model_lowvram and not loads_dynamically(patcher)


def compute_dtype(patcher: ModelPatcher) -> torch.dtype:
    """In which dtype a model computes, whatever its weights are stored in."""
    return getattr(patcher.model, "manual_cast_dtype", None) or patcher.model_dtype()


def runner(main: ModelPatcher, weak: ModelPatcher) -> ModelPatcher:
    """A patcher with the weights of ``main`` and everything else of ``weak``, of the same base."""
    patcher = main.clone()
    patcher.model_options = comfy.model_patcher.create_model_options_clone(weak.model_options)
    patcher.wrappers = weak.wrappers
    patcher.callbacks = weak.callbacks
    patcher.injections = weak.injections
    patcher.attachments = weak.attachments
    # ComfyUI's copies on other devices have the main model's weights, and keep them.
    patcher.additional_models = on_one_device(weak).additional_models.copy()
    patcher.hook_patches = comfy.model_patcher.create_hook_patches_clone(weak.hook_patches)
    # What hooks have cached was made on top of the main model's weights.
    patcher.cached_hook_patches = {}
    disown_pinned_weights(patcher)
    return patcher


def on_one_device(patcher: ModelPatcher) -> ModelPatcher:
    """A model without the copies of it that ComfyUI runs on other devices; none before 2026.

    ComfyUI takes every such copy that is loaded with a model for one of that model.
    """
    if not patcher.get_additional_models_with_key(_OTHER_DEVICES):
        return patcher
    alone = patcher.clone()
    alone.remove_additional_models(_OTHER_DEVICES)
    return alone


_OTHER_DEVICES = "multigpu"


def disown_pinned_weights(patcher: ModelPatcher) -> None:
    """A clone shares the record of pinned weights, and would unpin them for all when it goes.

    Releases up to 0.3.52 pin none.
    """
    patcher.pinned = set()


def without_injections(patcher: ModelPatcher) -> AbstractContextManager[Any]:
    """Take out what a patcher has injected into the model, for a while."""
    return patcher.use_ejected()


@contextmanager
def running_as(patcher: ModelPatcher) -> Iterator[None]:
    """Inject what a patcher injects, and take it out again, with whatever its hooks have put in."""
    with ExitStack() as undo:
        patcher.inject_model()
        undo.callback(patcher.eject_model)
        undo.callback(patcher.patch_hooks, None)
        yield


@contextmanager
def exchanged(main: ModelPatcher, current: ModelPatcher) -> Iterator[None]:
    """Take ``main``, its hooks and injections, out of its loaded model for ``current``."""
    # Hooks of the main pass sit in the weights themselves until the next pass.
    main.patch_hooks(None)
    before = main.model.current_patcher
    main.model.current_patcher = current
    try:
        with main.use_ejected():
            yield
    finally:
        main.model.current_patcher = before


def patcher_beside(main: ModelPatcher, model: torch.nn.Module) -> ModelPatcher:
    """A patcher of a model that is always loaded along with ``main``, and in the same way.

    For the sake of a single model that is not loaded dynamically, ComfyUI unloads all others.
    """
    kind = _DYNAMIC if is_dynamic_patcher(main) else ModelPatcher
    return kind(model, main.load_device, main.offload_device)


def is_dynamic_patcher(patcher: ModelPatcher) -> bool:
    """Whether a patcher is of ComfyUI's class for models that are loaded dynamically."""
    return _DYNAMIC is not None and isinstance(patcher, _DYNAMIC)


# In releases of 2026.
_DYNAMIC = getattr(comfy.model_patcher, "ModelPatcherDynamic", None)


def unload(patcher: ModelPatcher) -> None:
    """Take a model off its device, and let ComfyUI measure it again before it is loaded."""
    patcher.detach()
    patcher.size = 0
    if is_dynamic_patcher(patcher):
        # The room that it has on the card is measured once, too.
        patcher.model.dynamic_vbars.clear()
        for module in patcher.model.modules():
            for name in ("_v", "_v_signature"):
                vars(module).pop(name, None)


def delegate_beside(main: ModelPatcher, model: ModelPatcher) -> ModelPatcher:
    """What stands for ``model`` in a run of ``main``: the same base stays the same base.

    Where conditionings have hooks, ComfyUI lets a delegate that is not loaded dynamically run in a
    main model's place; its weights are others.
    """
    if loads_dynamically(main) or not loads_dynamically(model) or model.is_clone(main):
        return model
    ancestor = main.parent
    while ancestor is not None and not model.is_clone(ancestor):
        ancestor = ancestor.parent
    if ancestor is None:
        return model
    known = _delegates.get(model)
    if known is None or not known.is_clone(main):
        known = model.clone(disable_dynamic=True, model_override=main.get_clone_model_override())
        # It would keep the model for as long as it is itself kept for the model.
        known.parent = None
        _delegates[model] = known
    return known


_delegates: WeakKeyDictionary[ModelPatcher, ModelPatcher] = WeakKeyDictionary()


def able_to_hook(model: ModelPatcher, conds: InnerConditioning) -> ModelPatcher:
    """What can predict from conditionings with hooks: a delegate where ``model`` cannot."""
    if loads_dynamically(model) and any(_has_hooks(cond) for cond in conds):
        return model.get_non_dynamic_delegate()
    return model


def _has_hooks(cond: Mapping[str, Any]) -> bool:
    control = cond.get("control")
    return "hooks" in cond or (control is not None and bool(control.get_extra_hooks()))
