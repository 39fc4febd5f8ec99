"""Where ComfyUI's sampler is entered: guidance on a model, and the guider made of it.

Guidance is one wrapper around a sampling run (``WrappersMP.OUTER_SAMPLE``). Nothing is left on the
model between runs, and nothing that ComfyUI clones holds state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import comfy
from ..comfy import CFGGuider, WrappersMP
from ..push.call import Conditioning
from .guided_run import GuidedRun
from .settings import WRAPPER_KEY, Guidance

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import ModelPatcher


def with_guidance(model: ModelPatcher, guidance: Guidance) -> ModelPatcher:
    """Return a clone of ``model`` whose every prediction is guided.

    Args:
        guidance: as :func:`.settings.settle` has decided for this model.
    """
    patched = model.clone()
    if guidance.is_off:
        return patched
    for weak in guidance.weak:
        if not weak.model.is_clone(model):
            patched.set_additional_models(weak.key, [comfy.on_one_device(weak.model)])

    # A closure, not an object: ComfyUI clones models by deep copy, and passes functions unharmed.
    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        _, _, _, sigmas, *_ = args
        # Releases up to 0.3.52 know no latents in parts.
        shapes = kwargs.get("latent_shapes", ())
        run = GuidedRun(guidance, executor.class_obj, sigmas, shapes)
        return run.sample(executor, args, kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, outer_sample)
    return patched


def make_guider(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning | None,
    cfg: float,
) -> CFGGuider:
    """Return ComfyUI's own guider for the model; without ``negative`` it has no negative push."""
    guider = CFGGuider(model)
    if negative is None:
        # At cfg 1 ComfyUI skips the negative pass. Only samplers of the CFG++ kind ask for it all
        # the same, and to them "no negative push" means the positive prediction once more.
        negative, cfg = positive, 1.0
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider
