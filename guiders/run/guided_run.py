"""The guidance of one node during one sampling run.

While the run lasts, one post-CFG function stands first on the run's own list and adds the weak leg,
one pre-CFG function gives the negative leg its schedule and shape, and a batch function asks for
what both need along with the run's own predictions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.hooks
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
from comfy.patcher_extension import WrappersMP

from ..errors import GuidanceError, bad_input
from ..models import check_pair, is_off, noise_of
from ..push import formulas
from ..push.call import Conditioning, Step
from ..push.carried import Carried
from ..push.noise import Noise
from ..push.schedules import LegScale
from ..push.shapes import LegShape
from ..record.live_text import LiveText
from ..record.probe import LegAtCall, Recorder
from .references import Reference
from .settings import WRAPPER_KEY, Guidance, Push, WeakLeg, require_difference, unguided
from .weak_run import TOLD_ELSEWHERE, InnerConditioning

if TYPE_CHECKING:
    from torch import Tensor

# From the arguments of ComfyUI's batch function to one prediction per conditioning.
BatchFunction = Callable[[dict[str, Any]], list["Tensor"]]

_BATCH_FUNCTION = "sampler_calc_cond_batch_function"


class _RunningLeg:
    """The schedules and shapes of one leg during one run."""

    def __init__(self, push: Push, noise: Noise) -> None:
        self.shapes = push.shapes
        self.scale = LegScale(push.schedules, noise)
        self._shape = LegShape(push.shapes, noise)
        self._seen = self._was_on = False
        self._asked_for_other = self._had_other = False

    def is_on(self, call: _Call) -> bool:
        """Whether the fixed schedules leave anything of the leg at this call."""
        self._seen = True
        on = not self.scale.has_fixed or self.scale.fixed_factor(call.level) != 0
        self._was_on = self._was_on or on
        return on

    @property
    def never_on(self) -> bool:
        """Whether its schedule left nothing of it at any call of the run."""
        return self._seen and not self._was_on

    @property
    def never_compared(self) -> bool:
        """Whether a shape asked for the other leg, and there was none at any call of the run."""
        return self._asked_for_other and not self._had_other

    def comparing(self, other: Callable[[], Tensor | None]) -> Callable[[], Tensor | None]:
        """What gives the other leg's difference, noting whether there is one."""

        def asked() -> Tensor | None:
            difference = other()
            self._asked_for_other = True
            self._had_other = self._had_other or difference is not None
            return difference

        return asked

    def shaped(self, scale: float, step: Step) -> tuple[Tensor, formulas.Scale]:
        """The difference to add, and the scale at this step."""
        excess = self.scale.excess(scale, step)
        return self._shape(step, excess), excess + 1.0


class _Call:
    """One model call of a run."""

    def __init__(self, x: Tensor, sigma: Tensor) -> None:
        self.x = x
        self.sigma = sigma
        self.C: Tensor | None = None
        self.N: Tensor | None = None
        self.predictions: dict[Reference, Tensor] = {}
        self.legs: dict[str, LegAtCall] = {}
        self.differences: dict[Reference | None, Tensor] = {}
        self.negative_is_shaped = False
        self._level: float | None = None

    @property
    def level(self) -> float:
        """Sigma as a number, for which the device has to be waited for."""
        if self._level is None:
            self._level = float(self.sigma.max())
        return self._level

    def difference(self, key: Reference | None, R: Tensor) -> Tensor:
        """``C − R``, computed once."""
        if key not in self.differences:
            self.differences[key] = self.C - R
        return self.differences[key]


@dataclass(frozen=True)
class _Batch:
    """Batch function of a run: predicts for its conditionings, and for those of a leg with them.

    Attributes:
        predict: is given the function's arguments, and what predicts for conditionings.
        others: the function that stood there before.
    """

    predict: Callable[[dict[str, Any], BatchFunction], list[Tensor]]
    others: BatchFunction | None

    def __call__(self, args: dict[str, Any]) -> list[Tensor]:
        return self.predict(args, self.others or _predict_batch)


def _predict_batch(args: dict[str, Any]) -> list[Tensor]:
    names = ("model", "conds", "input", "sigma", "model_options")
    return comfy.samplers.calc_cond_batch(*(args[name] for name in names))


def _has_negative(conds: Sequence[Any]) -> bool:
    return len(conds) > 1 and conds[1] is not None


class GuidedRun:
    """The guidance of one node during one sampling run.

    Args:
        guidance: what the node asks for.
        guider: ComfyUI's, whose run it is.
        sigmas: of the run.
    """

    def __init__(
        self, guidance: Guidance, guider: comfy.samplers.CFGGuider, sigmas: Tensor
    ) -> None:
        self._guidance = guidance
        self._node = guidance.node
        self._guider = guider
        self._main = guider.model_patcher
        self._noise = noise_of(self._main, sigmas.tolist())
        self._call: _Call | None = None
        self._differed = False
        self._weak: _RunningLeg | None = None
        self._bad_version: Reference | None = None
        self._carried: Carried | None = None
        if guidance.weak is not None:
            self._bad_version = self._weak_reference(guidance.weak)
            self._weak = _RunningLeg(guidance.weak.push, self._noise)
            if guidance.weak.every > 1:
                self._carried = Carried(guidance.weak.every, self._noise)
        self._negative: _RunningLeg | None = None
        if not guidance.negative.is_plain:
            self._negative = _RunningLeg(guidance.negative, self._noise)
        # By the identity of the artist's conditioning: more than one shape may ask for the same.
        self._others: dict[int, Reference] = {}
        for leg in self._legs:
            for shape in leg.shapes:
                if shape.asks_for is not None and id(shape.asks_for) not in self._others:
                    self._others[id(shape.asks_for)] = Reference(
                        shape.node,
                        "empty",
                        "empty",
                        self._main,
                        unguided(self._main),
                        shape.asks_for,
                    )
        self._joined: dict[Reference, InnerConditioning] = {}
        self._live = None if guidance.show is None else LiveText(guidance.show)
        self._recorder: Recorder | None = None
        if guidance.probe is not None:
            latent_format = self._main.get_model_object("latent_format")
            self._recorder = guidance.probe.recorder(latent_format)

    @property
    def _is_watched(self) -> bool:
        return self._live is not None or self._recorder is not None

    @property
    def _legs(self) -> list[_RunningLeg]:
        return [leg for leg in (self._weak, self._negative) if leg is not None]

    @property
    def _references(self) -> list[Reference]:
        own = [] if self._bad_version is None else [self._bad_version]
        return [*own, *self._others.values()]

    def _weak_reference(self, leg: WeakLeg) -> Reference:
        weak = leg.weak_model_of(self._main)
        check_pair(self._node, self._main, weak)
        require_difference(self._node, leg, self._main)
        if leg.weak_positive is None and "positive" not in self._guider.original_conds:
            raise bad_input(
                self._node,
                "weak_positive",
                "nothing, and the sampler's guider has no conditioning of the name 'positive'",
                "the conditioning that the weak model is to see",
            )
        return Reference(
            self._node,
            "weak_positive",
            "weak_model",
            self._main,
            weak,
            leg.weak_positive,
            self._guider.original_conds.get("positive"),
        )

    def sample(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Go on with the run, guidance being on, and return its latent."""

        def main_run() -> Tensor:
            options = self._guider.model_options
            # A copy, because a wrapper around this one may go on with the run more than once.
            self._guider.model_options = comfy.model_patcher.create_model_options_clone(options)
            try:
                self._hang_into(self._guider.model_options)
                return executor(*args, **kwargs)
            finally:
                self._guider.model_options = options

        run: Callable[[], Tensor] = main_run
        for reference in self._references:
            run = partial(reference.around, run, args, kwargs)
        latent = run()
        self._look_back()
        if self._live is not None:
            self._live.finish()
        if self._recorder is not None:
            self._recorder.finish(latent)
        return latent

    def _look_back(self) -> None:
        """Tell of guidance that has come to nothing."""
        if self._bad_version is not None and self._bad_version.calls and not self._differed:
            raise self._changes_nothing("at every step of this run its prediction was the same")
        for name, leg in (("weak", self._weak), ("negative", self._negative)):
            if leg is not None and leg.never_on:
                logging.warning(
                    "%s, input '%s_schedule': it was off at every step of this run, whose sigmas "
                    "are %.4g to %.4g.",
                    self._node,
                    name,
                    max(self._noise.sigmas),
                    min(self._noise.sigmas),
                )
            if leg is not None and leg.never_compared:
                logging.warning(
                    "%s, input '%s_shape': it changed nothing, as the other push, which it "
                    "compares with, was off at every step of this run.",
                    self._node,
                    name,
                )

    def _hang_into(self, options: dict[str, Any]) -> None:
        """Add the legs, and what they need, to the options of this run alone."""
        models = [model for each in self._references for model in each.models_to_load]
        if models:
            loaded_along = comfy.hooks.AdditionalModelsHook(models, key=WRAPPER_KEY)
            registered = options.get("registered_hooks")
            options["registered_hooks"] = comfy.hooks.HookGroup()
            for hook in [*(registered.hooks if registered is not None else ()), loaded_along]:
                options["registered_hooks"].add(hook)
        if "context_handler" in options:
            for reference in self._references:
                reference.use_context_windows(options["context_handler"])
        self._hang_batch_function_into(options)
        # First, so that the functions of others see all of the push.
        for name, function in (
            ("sampler_pre_cfg_function", lambda args: self._before_cfg(args)),
            ("sampler_post_cfg_function", lambda args: self._after_cfg(args)),
        ):
            options[name] = [function, *options.get(name, [])]
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.PREDICT_NOISE,
            WRAPPER_KEY,
            self._predict_noise,
            options,
            is_model_options=True,
        )

    def _hang_batch_function_into(self, options: dict[str, Any]) -> None:
        """Let the main model predict for the legs too, where only the conditioning differs.

        ComfyUI then puts their conditionings into one batch with the run's own, where they fit.
        Guiders that do not ask this function for their predictions leave the legs their own passes.
        """
        others = options.get(_BATCH_FUNCTION)
        # Those of other packs may count on a positive and a negative conditioning only.
        if others is None or isinstance(others, _Batch):
            conds = {each: each.conditioning_for_main() for each in self._references}
            self._joined = {each: cond for each, cond in conds.items() if cond is not None}
        if self._joined or (self._negative is not None and self._negative.scale.has_fixed):
            options[_BATCH_FUNCTION] = _Batch(self._predict_batch, others)

    def _call_at(self, x: Tensor, sigma: Tensor) -> _Call:
        """The present model call."""
        if self._call is None or self._call.x is not x or self._call.sigma is not sigma:
            self._call = _Call(x, sigma)
        return self._call

    def _predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Wrapper of a model call: let the weak model make its first prediction first.

        A conditioning that it cannot take is reported before an artist has waited for a step, and
        so are weights that are the main model's, which are in place by now.
        """
        self._call = call = _Call(x, timestep)
        first = self._bad_version
        if (
            first is not None
            and first.calls == 0
            and first not in self._joined
            and self._weak.is_on(call)
        ):
            if self._guidance.weak.weak_positive is None and first.is_main_model():
                raise self._changes_nothing("all of its weights are those of 'model'")
            self._prediction(first, call)
        try:
            guided = executor(x, timestep, *args, **kwargs)
            if self._is_watched and call.C is not None:
                self._watch(call, guided)
            return guided
        finally:
            self._call = None

    def _watch(self, call: _Call, guided: Tensor) -> None:
        """Let those who look on see a model call, and what has become of it."""
        if self._recorder is not None:
            self._recorder.call(call.sigma, call.C, guided, call.legs)
        if self._live is not None:
            names = {"weak": "weak_scale", "negative": "cfg"}
            scales = {names[name]: leg.scale for name, leg in call.legs.items()}
            self._live.call(call.sigma, call.C, guided, scales)

    def _predict_batch(self, args: dict[str, Any], others: BatchFunction) -> list[Tensor]:
        """Batch function: ask for the legs' predictions along with the run's own."""
        call = self._call_at(args["input"], args["sigma"])
        own = list(args["conds"])
        switched_off = _has_negative(own) and not self._negative_is_on(call)
        if switched_off:
            own[1] = None  # As ComfyUI does at a cfg of 1; no pass is made for it.
        joined = [each for each in self._joined if self._is_wanted(each, call, own)]
        conds = [self._joined[each] for each in joined]
        try:
            out = others({**args, "conds": [*own, *conds]})
        except TOLD_ELSEWHERE:
            raise
        except Exception as error:
            new = [each for each in joined if not each.calls]
            if not new:
                raise
            others({**args, "conds": own})  # Raises where the run's own conditionings are at fault.
            raise self._unfit(new, args, others).cannot_take_conditioning() from error
        for each, R in zip(joined, out[len(own) :], strict=True):
            call.predictions[each] = each.checked(R, args["sigma"])
        out = list(out[: len(own)])
        if switched_off:
            out[1] = out[0]  # ComfyUI has zeros there.
        return out

    def _unfit(
        self, references: list[Reference], args: dict[str, Any], others: BatchFunction
    ) -> Reference:
        """Find out which of some references has a conditioning that fails."""
        for each in references[:-1]:
            try:
                others({**args, "conds": [self._joined[each]]})
            except Exception:
                return each
        return references[-1]

    def _is_wanted(self, reference: Reference, call: _Call, conds: Sequence[Any]) -> bool:
        """Whether any leg that is on needs a reference at this call."""
        negative = self._negative if _has_negative(conds) else None
        on = [leg for leg in (self._weak, negative) if leg is not None and leg.is_on(call)]
        if reference is self._bad_version:
            return self._weak in on and self._is_due(call)
        asked = [shape.asks_for for leg in on for shape in leg.shapes]
        return any(self._others.get(id(each)) is reference for each in asked)

    def _negative_is_on(self, call: _Call) -> bool:
        return self._negative is None or self._negative.is_on(call)

    def _before_cfg(self, args: dict[str, Any]) -> list[Tensor]:
        """Pre-CFG function: give the negative leg its schedule and shape.

        In place of ``N`` the sampler gets the reference from which its own scale leads to the push
        that is wanted, so that what others do to classifier-free guidance is done to that push.
        """
        call = self._call_at(args["input"], args["sigma"])
        C, *rest = out = args["conds_out"]
        call.C = C
        if len(rest) != 1 or not _has_negative(args["conds"]):
            return out
        call.negative_is_shaped = True
        if not self._negative_is_on(call):
            call.legs["negative"] = LegAtCall()
            return [C, C]
        if rest[0] is C:  # The schedule of another patch has switched it off.
            return out
        call.N, scale = rest[0], args["cond_scale"]
        call.legs["negative"] = LegAtCall(call.N, scale=scale)
        if self._negative is None or is_off(scale):
            return out
        step = self._step(call, self._negative, None, call.N)
        delta, new_scale = self._negative.shaped(scale, step)
        call.legs["negative"] = LegAtCall(
            call.N, scale=new_scale, posterior=self._negative.scale.posterior
        )
        # From C: at a scale of its own, less 1, of every sample.
        return [C, formulas.add_leg(C, delta, 1.0 - (new_scale - 1.0) / (scale - 1.0))]

    def _after_cfg(self, args: dict[str, Any]) -> Tensor:
        """Post-CFG function: add the weak leg to the sampler's own guidance."""
        call = self._call_at(args["input"], args["sigma"])
        if call.C is None:
            call.C = args["cond_denoised"]
        if (
            self._negative is not None
            and not call.negative_is_shaped
            and args["uncond"] is not None
        ):
            raise self._has_no_plain_cfg()
        if "negative" in call.legs and self._recorder is not None:
            pushed = args["denoised"] - call.C
            call.legs["negative"] = call.legs["negative"]._replace(push=pushed)
        if self._weak is None:
            return args["denoised"]
        if not self._weak.is_on(call):
            if self._carried is not None:
                self._carried.forget()
            call.legs["weak"] = LegAtCall()
            return args["denoised"]
        R = self._bad_prediction(call)
        step = self._step(call, self._weak, self._bad_version, R)
        delta, scale = self._weak.shaped(self._guidance.weak.scale, step)
        guided = formulas.add_leg(args["denoised"], delta, scale)
        pushed = None if self._recorder is None else guided - args["denoised"]
        call.legs["weak"] = LegAtCall(R, pushed, scale, self._weak.scale.posterior)
        return guided

    def _step(self, call: _Call, leg: _RunningLeg, key: Reference | None, R: Tensor) -> Step:
        """What one leg sees of a call; ``key`` is None for the negative one."""
        other = self._negative_difference if key is not None else self._weak_difference
        return Step(
            noise=self._noise,
            x=call.x,
            sigma=call.sigma,
            C=call.C,
            R=R,
            difference=call.difference(key, R),
            other=leg.comparing(partial(other, call)),
            predict=partial(self._prediction_for, call),
            measure_level=lambda: call.level,
        )

    def _weak_difference(self, call: _Call) -> Tensor | None:
        if self._weak is None or not self._weak.is_on(call):
            return None
        return call.difference(self._bad_version, self._bad_prediction(call))

    def _negative_difference(self, call: _Call) -> Tensor | None:
        return None if call.N is None else call.difference(None, call.N)

    def _is_due(self, call: _Call) -> bool:
        """Whether the bad version itself is to predict at this call."""
        return self._carried is None or self._carried.is_due(call.level)

    def _bad_prediction(self, call: _Call) -> Tensor:
        """The bad version's prediction, or the one that the difference carried over stands for."""
        key = self._bad_version
        if key in call.differences:
            return call.predictions[key]
        if key not in call.predictions and not self._is_due(call):
            delta = call.differences[key] = self._carried.at(call.sigma, call.level)
            call.predictions[key] = call.C - delta
            return call.predictions[key]
        R = self._prediction(key, call)
        delta = call.difference(key, R)
        if not self._differed:
            least = key.rounding * formulas.norm(call.C).max()
            self._differed = bool(formulas.norm(delta).max() > least)
        if self._carried is not None:
            self._carried.find(delta, call.sigma, call.level)
        return R

    def _prediction_for(self, call: _Call, conditioning: Conditioning) -> Tensor:
        return self._prediction(self._others[id(conditioning)], call)

    @staticmethod
    def _prediction(reference: Reference, call: _Call) -> Tensor:
        if reference not in call.predictions:
            call.predictions[reference] = reference.predict(call.x, call.sigma)
        return call.predictions[reference]

    def _changes_nothing(self, how: str) -> GuidanceError:
        return bad_input(
            self._node,
            "weak_model",
            f"a model that changes nothing: {how}",
            "a bad version that differs from 'model'; check that its LoRA fits it, that its "
            "strength is not 0, and that it is not the same checkpoint loaded twice",
        )

    def _has_no_plain_cfg(self) -> GuidanceError:
        push = self._guidance.negative
        return bad_input(
            self._node,
            "negative_schedule" if push.schedules else "negative_shape",
            f"something to act on the guidance of {type(self._guider).__name__}, which is not "
            "plain classifier-free guidance",
            "a sampler with one positive and one negative prompt, such as KSampler or CFGGuider",
        )
