"""ComfyUI, as the rest of guiders sees it.

No other file here imports ComfyUI, or reads what it keeps for itself on models, layers and options.
So a release that has renamed something is followed here, and nowhere else.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from torch import Tensor

# In every release from 0.3.52, the oldest that the pack is for, to 0.33.0.
NEEDED = {
    "comfy.context_windows": ("ContextHandlerABC",),
    "comfy.hooks": ("AdditionalModelsHook", "HookGroup"),
    "comfy.ldm.modules.attention": ("optimized_attention_masked",),
    "comfy.lora": ("calculate_weight",),
    "comfy.model_management": (
        "InterruptProcessingException",
        "OOM_EXCEPTION",
        "cast_to_device",
        "throw_exception_if_processing_interrupted",
    ),
    "comfy.model_patcher": (
        "LowVramPatch",
        "ModelPatcher",
        "create_hook_patches_clone",
        "create_model_options_clone",
        "get_key_weight",
    ),
    "comfy.patcher_extension": (
        "PatcherInjection",
        "WrappersMP.APPLY_MODEL",
        "WrappersMP.CALC_COND_BATCH",
        "WrappersMP.OUTER_SAMPLE",
        "WrappersMP.PREDICT_NOISE",
        "WrappersMP.PREPARE_SAMPLING",
        "WrappersMP.SAMPLER_SAMPLE",
        "add_wrapper_with_key",
    ),
    "comfy.sampler_helpers": ("convert_cond",),
    "comfy.samplers": (
        "CFGGuider.inner_sample",
        "CFGGuider.outer_sample",
        "CFGGuider.sample",
        "CFGGuider.set_cfg",
        "CFGGuider.set_conds",
        "Sampler",
        "calc_cond_batch",
        "get_area_and_mult",
    ),
    "comfy.utils": ("get_attr", "set_attr", "set_attr_param"),
    "comfy.weight_adapter": ("WeightAdapterBase",),
}
NEEDED_ON_PATCHERS = (
    "additional_models",
    "attachments",
    "backup",
    "cached_hook_patches",
    "callbacks",
    "detach",
    "eject_model",
    "hook_backup",
    "hook_patches",
    "hook_patches_backup",
    "inject_model",
    "injections",
    "object_patches",
    "object_patches_backup",
    "patch_hooks",
    "partially_load",
    "patch_weight_to_device",
    "patches",
    "patches_uuid",
    "pre_run",
    "size",
    "skip_injection",
    "unpatch_model",
    "use_ejected",
    "weight_inplace_update",
    "wrappers",
)


def missing_names() -> list[str]:
    """What of all this the running ComfyUI has not, by full name."""
    missing = []
    for module_name, names in NEEDED.items():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:
            missing.append(module_name)
            continue
        for name in names:
            try:
                attrgetter(name)(module)
            except AttributeError:
                missing.append(f"{module_name}.{name}")
    if not missing:
        from comfy.model_patcher import ModelPatcher

        cpu = torch.device("cpu")
        patcher = ModelPatcher(torch.nn.Module(), cpu, cpu)
        missing = [
            f"comfy.model_patcher.ModelPatcher.{name}"
            for name in NEEDED_ON_PATCHERS
            if not hasattr(patcher, name)
        ]
    return missing


def require_names() -> None:
    """Raise ``ImportError`` with the names of what is missing; ComfyUI goes on without the pack."""
    missing = missing_names()
    if missing:
        from comfyui_version import __version__

        raise ImportError(
            f"Bad-Version Guider cannot be loaded: ComfyUI {__version__} has no "
            f"{', '.join(missing)}. It is tested on ComfyUI 0.3.52 to 0.33.0; look for a newer "
            "version of the pack."
        )


require_names()

import comfy.hooks
import comfy.ldm.modules.attention
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import comfy.utils
from comfy.context_windows import ContextHandlerABC
from comfy.model_patcher import LowVramPatch, ModelPatcher
from comfy.patcher_extension import PatcherInjection, WrappersMP
from comfy.sampler_helpers import convert_cond
from comfy.samplers import CFGGuider, Sampler
from comfy.weight_adapter import WeightAdapterBase

__all__ = [
    "CFGGuider",
    "ModelPatcher",
    "Sampler",
    "WeightAdapterBase",
    "WrappersMP",
    "convert_cond",
]

# A conditioning in ComfyUI's inner form, as guiders hold it.
InnerConditioning = list[dict[str, Any]]

# From the arguments of ComfyUI's batch function to one prediction per conditioning.
BatchFunction = Callable[[dict[str, Any]], list["Tensor"]]

# What ComfyUI itself knows how to tell an artist.
CANCEL_OR_MEMORY = (
    comfy.model_management.InterruptProcessingException,
    comfy.model_management.OOM_EXCEPTION,
)

# ------------------------------------------------------------------------------ options of a run

BATCH_FUNCTION = "sampler_calc_cond_batch_function"
PRE_CFG = "sampler_pre_cfg_function"
POST_CFG = "sampler_post_cfg_function"
CFG = "sampler_cfg_function"
CONTEXT_WINDOWS = "context_handler"

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


@contextmanager
def own_options(guider: CFGGuider) -> Iterator[dict[str, Any]]:
    """Give a guider options of its own for a while, which may be changed at will."""
    options = guider.model_options
    guider.model_options = comfy.model_patcher.create_model_options_clone(options)
    try:
        yield guider.model_options
    finally:
        guider.model_options = options


def load_along(options: dict[str, Any], models: Sequence[ModelPatcher], key: str) -> None:
    """Let a run load models with its own; ComfyUI has no other way in once a run has begun."""
    if not models:
        return
    registered = options.get("registered_hooks")
    hooks = comfy.hooks.HookGroup()
    along = comfy.hooks.AdditionalModelsHook(list(models), key=key)
    for hook in [*(registered.hooks if registered is not None else ()), along]:
        hooks.add(hook)
    options["registered_hooks"] = hooks


def wrap(options: dict[str, Any], kind: str, key: str, wrapper: Callable[..., Any]) -> None:
    """Put a wrapper of one of the kinds of ``WrappersMP`` around something in a run."""
    comfy.patcher_extension.add_wrapper_with_key(kind, key, wrapper, options, is_model_options=True)


def predict_batch(args: dict[str, Any]) -> list[Tensor]:
    """What ComfyUI does where no batch function stands."""
    names = ("model", "conds", "input", "sigma", "model_options")
    return comfy.samplers.calc_cond_batch(*(args[name] for name in names))


def make_ready_again(guider: CFGGuider) -> None:
    """Let a guider's model predict once more where another run has cleaned it up in between."""
    if guider.inner_model.current_patcher is None:
        guider.model_patcher.pre_run()


def mixes_prompts(options: dict[str, Any]) -> bool:
    """Whether patches on a model may make its positive prediction depend on the negative prompt.

    As normalized attention guidance does, wherever a pass has both; so it wants both at every
    scale, 1 included.
    """
    transformer = options.get("transformer_options", {})
    patched = "model_function_wrapper" in options or any(transformer.get("patches", {}).values())
    return patched and bool(options.get("disable_cfg1_optimization"))


def predict(
    guider: CFGGuider, names: Sequence[str], x: Tensor, sigma: Tensor, options: dict[str, Any]
) -> Tensor:
    """The denoised prediction of a guider's model for the first of some of its conditionings.

    Args:
        guider: during a run.
        names: of the conditionings, which ComfyUI predicts for together.
        x: noisy latent ``[batch, channels, *spatial]``.
        sigma: its noise level, ``[batch]``.
        options: of the run.

    Returns:
        A tensor like ``x``, on its device.
    """
    device = guider.model_patcher.load_device
    conds = [guider.conds[name] for name in names]
    denoised, *_ = comfy.samplers.calc_cond_batch(
        guider.inner_model, conds, x.to(device), sigma.to(device), options
    )
    return denoised.to(x.device)


# What keeps a conditioning from predicting at every sigma and everywhere in a latent.
_LIMITS = {"area", "mask", "timestep_start", "timestep_end"}


def predicted_where(conds: InnerConditioning, x: Tensor, sigma: Tensor) -> Tensor | None:
    """Where ComfyUI predicts anything from a conditioning; it fills the rest with zeros.

    Returns:
        A tensor of the shape of ``x``, true there; None for everywhere.
    """
    if any("default" in cond or _LIMITS.isdisjoint(cond) for cond in conds):
        return None
    where = torch.zeros_like(x, dtype=torch.bool)
    for cond in conds:
        found = comfy.samplers.get_area_and_mult(cond, x, sigma)
        if found is None:
            continue
        part = where
        if found.area is not None:
            count = len(found.area) // 2
            for i in range(count):
                part = part.narrow(i + 2, found.area[count + i], found.area[i])
        part |= found.mult.to(x.device) > 0
    return where


def with_own_hooks(conds: InnerConditioning) -> InnerConditioning:
    """Copy a conditioning, its hook keyframes included.

    A keyframe tells only the first model that asks that its strength has changed.
    """
    copies = [cond.copy() for cond in conds]
    groups: dict[int, Any] = {}
    for cond in copies:
        if "hooks" not in cond:
            continue
        shared = id(cond["hooks"])
        if shared not in groups:
            groups[shared] = cond["hooks"].clone()
            for hook in groups[shared].hooks:
                hook.hook_keyframe = hook.hook_keyframe.clone()
        cond["hooks"] = groups[shared]
    return copies


# -------------------------------------------------------------------------- what a patcher asks for


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
    _disown_pinned_weights(patcher)
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


def _disown_pinned_weights(patcher: ModelPatcher) -> None:
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


def stop_if_cancelled() -> None:
    """Raise ComfyUI's own exception where the artist has pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


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


# ------------------------------------------------------------------------------- layers and weights


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
        _disown_pinned_weights(self._maker)
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


# ------------------------------------------------------------------------- inside a network's pass

# Releases after 0.3.52 hand their transformer options to every attention, and ask there for an
# override.
ATTENTION_ASKS = hasattr(comfy.ldm.modules.attention, "wrap_attn")


def attend(*args: Any, **kwargs: Any) -> Tensor:
    """ComfyUI's attention with a mask, as it is chosen for this machine."""
    return comfy.ldm.modules.attention.optimized_attention_masked(*args, **kwargs)
