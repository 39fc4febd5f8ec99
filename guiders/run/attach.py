"""Where ComfyUI's sampler is entered: the legs of guidance on a model, and the guider made of it.

Guidance is one wrapper around a sampling run (``WrappersMP.OUTER_SAMPLE``). Nothing is left on the
model between runs, and nothing that ComfyUI clones holds state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import comfy.samplers
from comfy.patcher_extension import WrappersMP

from ..errors import bad_input
from ..models import check_pair, is_off
from ..push.call import Conditioning
from .guided_run import GuidedRun
from .settings import WRAPPER_KEY, Guidance, WeakLeg, unguided

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor


def with_guidance(model: ModelPatcher, guidance: Guidance) -> ModelPatcher:
    """Return a clone of ``model`` whose every prediction is guided.

    A leg that is off leaves no trace, so that the weak model is not even loaded.

    Raises:
        GuidanceError: where the two models do not fit together.
    """
    leg = guidance.weak
    if leg is not None:
        leg = _checked(guidance.node, model, leg)
        guidance = replace(guidance, weak=None if is_off(leg.scale) else leg)
    patched = model.clone()
    if guidance.is_off:
        return patched
    if guidance.weak is not None and not leg.weak_model.is_clone(model):
        patched.set_additional_models(leg.key, [leg.weak_model])

    # A closure, not an object: ComfyUI clones models by deep copy, and passes functions unharmed.
    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        _, _, _, sigmas, *_ = args
        return GuidedRun(guidance, executor.class_obj, sigmas).sample(executor, args, kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, outer_sample)
    return patched


def make_guider(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning | None,
    cfg: float,
) -> comfy.samplers.CFGGuider:
    """Return ComfyUI's own guider for the model; without ``negative`` there is no negative leg."""
    guider = comfy.samplers.CFGGuider(model)
    if negative is None:
        # At cfg 1 ComfyUI skips the negative pass. Only samplers of the CFG++ kind ask for it all
        # the same, and to them "no negative leg" means the positive prediction once more.
        negative, cfg = positive, 1.0
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def _checked(node: str, model: ModelPatcher, leg: WeakLeg) -> WeakLeg:
    """Check a leg against the model it is for, and make it ready for that one."""
    check_pair(node, model, leg.weak_model)
    if leg.weak_model is model and leg.weak_positive is not None:
        # The bad version is the model itself, but without the guidance of patches before this.
        leg = replace(leg, weak_model=unguided(model))
    if leg.weak_model.get_wrappers(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY):
        raise bad_input(
            node,
            "weak_model",
            "a model that is itself guided by a Bad-Version Patch, which does not act on a weak "
            "model",
            "the model from before that patch",
        )
    return leg
