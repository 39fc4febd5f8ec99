"""A run as ComfyUI makes it: its options and conditionings, and what its model predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import comfy.hooks
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider
    from torch import Tensor

# A conditioning in ComfyUI's inner form, as guiders hold it.
InnerConditioning = list[dict[str, Any]]

# From the arguments of ComfyUI's batch function to one prediction per conditioning.
BatchFunction = Callable[[dict[str, Any]], list["Tensor"]]

# What ComfyUI itself knows how to tell an artist.
CANCEL_OR_MEMORY = (
    comfy.model_management.InterruptProcessingException,
    comfy.model_management.OOM_EXCEPTION,
)

# Options of a run, by key.
BATCH_FUNCTION = "sampler_calc_cond_batch_function"
PRE_CFG = "sampler_pre_cfg_function"
POST_CFG = "sampler_post_cfg_function"
CFG = "sampler_cfg_function"
CONTEXT_WINDOWS = "context_handler"


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


def stop_if_cancelled() -> None:
    """Raise ComfyUI's own exception where the artist has pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


# ------------------------------------------------------------------------- inside a network's pass

# Releases after 0.3.52 hand their transformer options to every attention, and ask there for an
# override.
ATTENTION_ASKS = hasattr(comfy.ldm.modules.attention, "wrap_attn")


def attend(*args: Any, **kwargs: Any) -> Tensor:
    """ComfyUI's attention with a mask, as it is chosen for this machine."""
    return comfy.ldm.modules.attention.optimized_attention_masked(*args, **kwargs)
