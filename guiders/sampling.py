"""Where ComfyUI's sampler is entered: a weak leg on a model, and the guider made of it.

A leg is one wrapper around a sampling run (``WrappersMP.OUTER_SAMPLE``). While the run lasts, one
post-CFG function stands first on the run's own list and adds the push. Nothing is left on the model
between runs, and nothing that ComfyUI clones holds state.

The weak model is set up by ComfyUI itself: the main run takes place *inside* a run of a second
``CFGGuider``, made for the weak model, whose sampler does nothing but start the main run. So
loading, conditioning, masks, hooks, control nets and cleaning up are ComfyUI's own code for both
models.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP

from . import formulas, same_base
from .compatibility import (
    check_pair,
    is_off,
    name_of,
    rounding_of,
    set_up_alike,
    weights_alike,
)
from .errors import GuidanceError, bad_input

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

Conditioning = list[list[Any]]

logger = logging.getLogger(__name__)

WRAPPER_KEY = "bad_version"

# Exceptions that ComfyUI itself knows how to report.
_NOT_OURS = (
    GuidanceError,
    comfy.model_management.InterruptProcessingException,
    comfy.model_management.OOM_EXCEPTION,
)


@dataclass(frozen=True)
class WeakLeg:
    """A push away from a weak model.

    Attributes:
        node: display name of the artist's node, for messages.
        weak_model: the bad version; another checkpoint, or the same base with other patches.
        scale: guidance scale ``w`` of autoguidance (arXiv 2406.02507, eq. 4); 1 is off.
        weak_positive: what the weak model sees; None for the positive conditioning of the run.
    """

    node: str
    weak_model: ModelPatcher
    scale: float
    weak_positive: Conditioning | None = None
    _key: str = field(default_factory=lambda: f"{WRAPPER_KEY}_{uuid.uuid4().hex}")

    def weak_model_of(self, main: ModelPatcher) -> ModelPatcher:
        """Find the weak model that ComfyUI loads along with ``main``.

        ComfyUI clones a model's additional models with it, so another checkpoint must be asked for;
        the same base is never loaded apart.
        """
        return next(iter(main.get_additional_models_with_key(self._key)), self.weak_model)


def with_weak_leg(model: ModelPatcher, leg: WeakLeg) -> ModelPatcher:
    """Return a clone of ``model`` whose every prediction is pushed away from the leg's weak model.

    A leg that is off leaves no trace, so that the weak model is not even loaded.

    Raises:
        GuidanceError: where the two models do not fit together.
    """
    check_pair(leg.node, model, leg.weak_model)
    if leg.weak_model.get_wrappers(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY):
        raise bad_input(
            leg.node,
            "weak_model",
            "a model that is itself guided by a Bad-Version Patch, which does not act on a weak "
            "model",
            "the model from before that patch",
        )
    patched = model.clone()
    if is_off(leg.scale):
        return patched
    if not leg.weak_model.is_clone(model):
        patched.set_additional_models(leg._key, [leg.weak_model])
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, _around_run(leg))
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


def require_difference(leg: WeakLeg, main: ModelPatcher) -> None:
    """Raise :class:`GuidanceError` where the weak model is the main one with nothing changed."""
    weak = leg.weak_model_of(main)
    if (
        leg.weak_positive is None
        and weak.is_clone(main)
        and set_up_alike(main, weak)
        and same_base.same_weights(main, weak)
    ):
        raise bad_input(
            leg.node,
            "weak_model",
            f"the very model that is plugged into 'model' ({name_of(main)}), with nothing changed",
            "a weaker one: a smaller, earlier or more compressed checkpoint, or the same base with "
            "other LoRAs",
        )


def _around_run(leg: WeakLeg) -> Callable[..., Tensor]:
    # A closure, not an object: ComfyUI clones models by deep copy, and passes functions unharmed.
    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        return _WeakRun(leg, executor.class_obj).around(executor, args, kwargs)

    return outer_sample


class _StartMainRun(comfy.samplers.Sampler):
    """A sampler without steps: ComfyUI calls it once the weak model stands ready."""

    def __init__(self, main_run: Callable[[dict[str, Any]], None]) -> None:
        self._main_run = main_run

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        self._main_run(extra_args["model_options"])
        return noise


class _WeakRun(comfy.samplers.CFGGuider):
    """The weak model's side of one sampling run of ``main_guider``."""

    def __init__(self, leg: WeakLeg, main_guider: comfy.samplers.CFGGuider) -> None:
        self._leg = leg
        self._main_guider = main_guider
        self._main = main_guider.model_patcher
        self._weak = leg.weak_model_of(self._main)
        self._shares_base = self._weak.is_clone(self._main)
        super().__init__(
            same_base.run_patcher(self._main, self._weak) if self._shares_base else self._weak
        )
        self.original_conds = {"positive": self._conditioning()}
        self._swap: same_base.WeightSwap | None = None
        self._outer_args: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._options: dict[str, Any] = {}
        self._ahead: tuple[Tensor, Tensor, Tensor] | None = None
        self._calls = 0
        self._differed = False
        self._rounding = rounding_of(self._weak)
        self._main_started = False

    def around(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run ``executor``, the main run, with this leg on; return its latent."""
        check_pair(self._leg.node, self._main, self._weak)
        require_difference(self._leg, self._main)
        result: list[Tensor] = []

        def main_run(weak_options: dict[str, Any]) -> None:
            self._begin(weak_options)
            result.append(executor(*args, **kwargs))

        noise, latent_image, _, sigmas, *rest = args
        self._outer_args = (noise, latent_image, _StartMainRun(main_run), sigmas, *rest), kwargs
        try:
            self.sample(*self._outer_args[0][:4])
        finally:
            # Both sit in a reference cycle, and would keep weights and latents until it is found.
            self._outer_args = self._swap = None
        if self._calls and not self._differed:
            raise self._changes_nothing("at every step of this run its prediction was the same")
        return result[0]

    def outer_sample(self, *_: Any, **__: Any) -> Tensor:
        # The main run's own arguments: packed latents, their shapes, the mask and the seed.
        args, kwargs = self._outer_args
        return super().outer_sample(*args, **kwargs)

    def inner_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return super().inner_sample(*args, **kwargs)
        except _NOT_OURS:
            raise
        except Exception as error:
            if self._main_started:
                raise
            raise self._cannot_take_conditioning() from error

    def _conditioning(self) -> list[dict[str, Any]]:
        """The weak model's conditioning, in ComfyUI's inner form and with hooks of its own."""
        if self._leg.weak_positive is not None:
            self.inner_set_conds({"positive": self._leg.weak_positive})
            conds = self.original_conds["positive"]
        elif "positive" in self._main_guider.original_conds:
            conds = [c.copy() for c in self._main_guider.original_conds["positive"]]
        else:
            raise bad_input(
                self._leg.node,
                "weak_positive",
                "nothing, and the sampler's guider has no conditioning of the name 'positive'",
                "the conditioning that the weak model is to see",
            )
        # A hook keyframe tells only the first model that asks that its strength has changed.
        groups: dict[int, Any] = {}
        for cond in conds:
            if "hooks" in cond:
                group = groups.setdefault(id(cond["hooks"]), cond["hooks"].clone())
                for hook in group.hooks:
                    hook.hook_keyframe = hook.hook_keyframe.clone()
                cond["hooks"] = group
        return conds

    def _begin(self, weak_options: dict[str, Any]) -> None:
        """Hang the leg into the main run, both models loaded and the weak one set up."""
        self._options = weak_options
        if self._shares_base:
            self._swap = same_base.WeightSwap(self._main, self._weak, self.model_patcher)
        self._require_other_weights()

        options = self._main_guider.model_options
        if "context_handler" in options:
            # The weak model must not see more frames at once than the main one.
            weak_options.setdefault("context_handler", options["context_handler"])
        posts = options.get("sampler_post_cfg_function", [])
        options["sampler_post_cfg_function"] = [lambda args: self._guide(args), *posts]
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.PREDICT_NOISE, WRAPPER_KEY, self._rehearse, options, is_model_options=True
        )
        self._main_started = True

    def _require_other_weights(self) -> None:
        if self._leg.weak_positive is not None or not set_up_alike(self._main, self._weak):
            return
        if self._swap is not None:
            unchanged = self._swap.changes_nothing
        else:
            unchanged = weights_alike(self._main, self._weak)
        if unchanged:
            raise self._changes_nothing("all of its weights are those of 'model'")

    def _rehearse(
        self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Let the weak model make its first prediction before the main one makes any.

        A conditioning that it cannot take is reported before an artist has waited for a step.
        """
        if self._calls == 0:
            try:
                self._ahead = x, timestep, self._predict(x, timestep)
            except _NOT_OURS:
                raise
            except Exception as error:
                raise self._cannot_take_conditioning() from error
        return executor(x, timestep, *args, **kwargs)

    def _guide(self, args: dict[str, Any]) -> Tensor:
        """Post-CFG function: add the push to the sampler's own guidance."""
        x, sigma, C = args["input"], args["sigma"], args["cond_denoised"]
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is x and ahead[1] is sigma:
            R = ahead[2]
        else:
            R = self._predict(x, sigma)
        self._differed = self._differed or bool((C - R).norm() > self._rounding * C.norm())
        return formulas.add_leg(args["denoised"], C, R, self._leg.scale)

    def _predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The weak model's denoised prediction, on the device of ``x``."""
        device = self.model_patcher.load_device
        conds = [self.conds["positive"]]
        with self._swap.in_place() if self._swap is not None else nullcontext():
            (R,) = comfy.samplers.calc_cond_batch(
                self.inner_model, conds, x.to(device), sigma.to(device), self._options
            )
        self._calls += 1
        if not torch.isfinite(R).all():
            raise GuidanceError(
                f"{self._leg.node}, input 'weak_model': the prediction of {name_of(self._weak)} "
                f"at sigma {float(sigma.max()):.4g} has NaN or infinity in it, so no picture was "
                "made. Expected finite numbers; load the weak model in a wider dtype (bf16 or "
                "fp32), or without the patch that breaks it."
            )
        return R.to(x.device)

    def _changes_nothing(self, how: str) -> GuidanceError:
        return bad_input(
            self._leg.node,
            "weak_model",
            f"a model that changes nothing: {how}",
            "a bad version that differs from 'model'; check that its LoRA fits it, that its "
            "strength is not 0, and that it is not the same checkpoint loaded twice",
        )

    def _cannot_take_conditioning(self) -> GuidanceError:
        given = "the positive conditioning of the run"
        name = "weak_positive"
        if self._leg.weak_positive is not None:
            given = "a conditioning"
        parts = ", ".join(
            f"{key} {tuple(value.shape)}"
            for cond in self.original_conds["positive"]
            for key, value in cond.items()
            if isinstance(value, torch.Tensor)
        )
        return bad_input(
            self._leg.node,
            name,
            f"{given} ({parts or 'no tensors'}), which {name_of(self._weak)} in 'weak_model' "
            "could not take",
            "a conditioning encoded by the weak model's own text encoder, with control nets made "
            "for it",
        )
