"""Where ComfyUI's sampler is entered: a weak leg on a model, and the guider made of it.

A leg is one wrapper around a sampling run (``WrappersMP.OUTER_SAMPLE``). While the run lasts, one
post-CFG function stands first on the run's own list and adds the push. Nothing is left on the model
between runs, and nothing that ComfyUI clones holds state.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import comfy.hooks
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import convert_cond

from . import formulas, same_base
from .compatibility import check_pair, is_off, name_of, rounding_of, set_up_alike
from .errors import GuidanceError, bad_input
from .weak_run import TOLD_ELSEWHERE, CannotPrepareError, InnerConditioning, WeakRun

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

# A conditioning as nodes pass it on: pairs of a text embedding and a dictionary.
Conditioning = list[list[Any]]

# From the arguments of ComfyUI's batch function to one prediction per conditioning.
BatchFunction = Callable[[dict[str, Any]], list["Tensor"]]

WRAPPER_KEY = "bad_version"

_BATCH_FUNCTION = "sampler_calc_cond_batch_function"


@dataclass(frozen=True)
class WeakLeg:
    """A push away from a weak model.

    Attributes:
        node: display name of the artist's node, for messages.
        weak_model: the bad version; another checkpoint, or the same base with other patches.
        scale: guidance scale ``w`` of autoguidance (arXiv 2406.02507, eq. 4); 1 is off.
        weak_positive: what the weak model sees; None for the positive conditioning of the run.
        key: under which ComfyUI finds the weak model among a main model's additional ones.
    """

    node: str
    weak_model: ModelPatcher
    scale: float
    weak_positive: Conditioning | None = None
    key: str = field(default_factory=lambda: f"{WRAPPER_KEY}_{uuid.uuid4().hex}")

    def weak_model_of(self, main: ModelPatcher) -> ModelPatcher:
        """Find the weak model that ComfyUI loads along with ``main``.

        ComfyUI clones a model's additional models with it, so another checkpoint must be asked for;
        the same base is never loaded apart.
        """
        return next(iter(main.get_additional_models_with_key(self.key)), self.weak_model)


def with_weak_leg(model: ModelPatcher, leg: WeakLeg) -> ModelPatcher:
    """Return a clone of ``model`` whose every prediction is pushed away from the leg's weak model.

    A leg that is off leaves no trace, so that the weak model is not even loaded.

    Raises:
        GuidanceError: where the two models do not fit together.
    """
    check_pair(leg.node, model, leg.weak_model)
    if leg.weak_model is model and leg.weak_positive is not None:
        # The bad version is the model itself, but without the guidance of patches before this.
        itself = model.clone()
        itself.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY)
        leg = replace(leg, weak_model=itself)
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
        patched.set_additional_models(leg.key, [leg.weak_model])

    # A closure, not an object: ComfyUI clones models by deep copy, and passes functions unharmed.
    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        return _LegRun(leg, executor.class_obj).sample(executor, args, kwargs)

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


def require_difference(leg: WeakLeg, main: ModelPatcher) -> None:
    """Raise :class:`GuidanceError` where the weak model is the main one with nothing changed."""
    weak = leg.weak_model_of(main)
    if (
        leg.weak_positive is None
        and weak.is_clone(main)
        and set_up_alike(main, weak)
        and same_base.same_patches(main, weak)
    ):
        raise bad_input(
            leg.node,
            "weak_model",
            f"the very model that is plugged into 'model' ({name_of(main)}), with nothing changed",
            "a weaker one: a smaller, earlier or more compressed checkpoint, or the same base with "
            "other LoRAs",
        )


@dataclass(frozen=True)
class _JoinedBatch:
    """Function of a run that predicts for its conditionings, and for those of a leg with them.

    Attributes:
        predict: is given the function's arguments, ``conds`` and what predicts for all of them.
        conds: what the leg's bad version sees.
        others: the function that stood there before: of another such leg.
    """

    predict: Callable[[dict[str, Any], InnerConditioning, BatchFunction], list[Tensor]]
    conds: InnerConditioning
    others: BatchFunction | None

    def __call__(self, args: dict[str, Any]) -> list[Tensor]:
        return self.predict(args, self.conds, self.others or _predict_batch)


def _predict_batch(args: dict[str, Any]) -> list[Tensor]:
    names = ("model", "conds", "input", "sigma", "model_options")
    return comfy.samplers.calc_cond_batch(*(args[name] for name in names))


class _LegRun:
    """One leg during one sampling run of ``guider``."""

    def __init__(self, leg: WeakLeg, guider: comfy.samplers.CFGGuider) -> None:
        self._leg = leg
        self._guider = guider
        self._main = guider.model_patcher
        self._weak = leg.weak_model_of(self._main)
        check_pair(leg.node, self._main, self._weak)
        require_difference(leg, self._main)
        self._conditioning = self._weak_conditioning()
        self._weak_run = WeakRun(self._main, self._weak, self._conditioning)
        self._rounding = rounding_of(self._weak)
        self._ahead: tuple[Tensor, Tensor, Tensor] | None = None
        self._calls = 0
        self._differed = False

    def sample(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Go on with the run, this leg being on, and return its latent."""

        def main_run() -> Tensor:
            options = self._guider.model_options
            # A copy, because a wrapper around this one may go on with the run more than once.
            self._guider.model_options = comfy.model_patcher.create_model_options_clone(options)
            try:
                self._hang_into(self._guider.model_options)
                return executor(*args, **kwargs)
            finally:
                self._guider.model_options = options

        try:
            latent = self._weak_run.around(main_run, args, kwargs)
        except CannotPrepareError as error:
            raise self._cannot_take_conditioning() from error
        if self._calls and not self._differed:
            raise self._changes_nothing("at every step of this run its prediction was the same")
        return latent

    def _weak_conditioning(self) -> InnerConditioning:
        if self._leg.weak_positive is not None:
            return convert_cond(self._leg.weak_positive)
        if "positive" in self._guider.original_conds:
            return self._guider.original_conds["positive"]
        raise bad_input(
            self._leg.node,
            "weak_positive",
            "nothing, and the sampler's guider has no conditioning of the name 'positive'",
            "the conditioning that the weak model is to see",
        )

    def _hang_into(self, options: dict[str, Any]) -> None:
        """Add the push, and what it needs, to the options of this run alone."""
        models = self._weak_run.models_to_load
        if models:
            loaded_along = comfy.hooks.AdditionalModelsHook(models, key=WRAPPER_KEY)
            registered = options.get("registered_hooks")
            options["registered_hooks"] = comfy.hooks.HookGroup()
            for hook in [*(registered.hooks if registered is not None else ()), loaded_along]:
                options["registered_hooks"].add(hook)
        if "context_handler" in options:
            self._weak_run.use_context_windows(options["context_handler"])
        others = options.get("sampler_post_cfg_function", [])
        options["sampler_post_cfg_function"] = [lambda args: self._guide(args), *others]
        if not self._join_batches(options):
            comfy.patcher_extension.add_wrapper_with_key(
                WrappersMP.PREDICT_NOISE,
                WRAPPER_KEY,
                self._rehearse,
                options,
                is_model_options=True,
            )

    def _join_batches(self, options: dict[str, Any]) -> bool:
        """Let the main model predict for the weak leg too, if only the conditioning differs.

        ComfyUI then puts the leg's conditioning into one batch with the run's own, where they fit.
        Guiders that do not ask this function for their predictions leave the leg its own pass.
        """
        conds = self._weak_run.conditioning_for_main()
        others = options.get(_BATCH_FUNCTION)
        if (
            self._leg.weak_positive is None
            or conds is None
            or not set_up_alike(self._main, self._weak)
            # Those of other packs may count on a positive and a negative conditioning only.
            or not (others is None or isinstance(others, _JoinedBatch))
        ):
            return False
        options[_BATCH_FUNCTION] = _JoinedBatch(self._predict_along, conds, others)
        return True

    def _predict_along(
        self, args: dict[str, Any], conds: InnerConditioning, others: BatchFunction
    ) -> list[Tensor]:
        """Predict for the leg's ``conds`` together with the run's own; keep the leg's apart."""
        try:
            *own, R = others({**args, "conds": [*args["conds"], conds]})
        except TOLD_ELSEWHERE:
            raise
        except Exception as error:
            if self._calls:
                raise
            others(args)  # Raises where the run's own conditionings are at fault.
            raise self._cannot_take_conditioning() from error
        self._ahead = args["input"], args["sigma"], self._checked(R, args["sigma"])
        return own

    def _rehearse(
        self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Let the weak model make its first prediction before the main one makes any.

        A conditioning that it cannot take is reported before an artist has waited for a step, and
        so are weights that are the main model's, which are in place by now.
        """
        if self._calls == 0:
            self._require_other_weights()
            self._ahead = x, timestep, self._predict(x, timestep)
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
        """The weak model's prediction, in a pass of its own."""
        try:
            R = self._weak_run.predict(x, sigma)
        except TOLD_ELSEWHERE:
            raise
        except Exception as error:
            if self._calls:
                raise
            raise self._cannot_take_conditioning() from error
        return self._checked(R, sigma)

    def _checked(self, R: Tensor, sigma: Tensor) -> Tensor:
        self._calls += 1
        if not torch.isfinite(R).all():
            raise GuidanceError(
                f"{self._leg.node}, input 'weak_model': the prediction of {name_of(self._weak)} "
                f"at sigma {float(sigma.max()):.4g} has NaN or infinity in it, so no picture was "
                "made. Expected finite numbers; load the weak model in a wider dtype (bf16 or "
                "fp32), or without the patch that breaks it."
            )
        return R

    def _require_other_weights(self) -> None:
        if (
            self._leg.weak_positive is None
            and set_up_alike(self._main, self._weak)
            and self._weak_run.has_weights_of_main()
        ):
            raise self._changes_nothing("all of its weights are those of 'model'")

    def _changes_nothing(self, how: str) -> GuidanceError:
        return bad_input(
            self._leg.node,
            "weak_model",
            f"a model that changes nothing: {how}",
            "a bad version that differs from 'model'; check that its LoRA fits it, that its "
            "strength is not 0, and that it is not the same checkpoint loaded twice",
        )

    def _cannot_take_conditioning(self) -> GuidanceError:
        own = self._leg.weak_positive is not None
        shapes = ", ".join(
            f"{key} {tuple(value.shape)}"
            for cond in self._conditioning
            for key, value in cond.items()
            if isinstance(value, torch.Tensor)
        )
        return bad_input(
            self._leg.node,
            "weak_positive",
            f"{'a conditioning' if own else 'nothing, so the positive conditioning of the run'} "
            f"({shapes or 'no tensors'}), from which {name_of(self._weak)} in 'weak_model' could "
            "not make a prediction",
            "a conditioning encoded by the weak model's own text encoder, with control nets made "
            "for it",
        )
