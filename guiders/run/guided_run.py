"""The guidance of one node during one sampling run.

While the run lasts, one post-CFG function stands first on the run's own list and adds the push away
from the weak model, one pre-CFG function gives the push away from the negative prompt its schedule
and shape, and a batch function asks for what both need along with the run's own predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import comfy
from ..comfy import InnerConditioning, WrappersMP
from ..errors import bad_input
from ..models import changes_nothing, check_pair, name_of, noise_of, require_difference
from ..push.call import Call, Conditioning, Pushed
from ..push.memory import Carried
from ..push.push import RunningPush
from .batch import SharedBatch
from .finite import Finite
from .negative import NegativePush
from .settings import WRAPPER_KEY, Guidance, WeakPush, unguided
from .side_run import SideRun
from .watch import Watch, announce, look_back

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import CFGGuider

_WEAK = "weak"


class GuidedRun:
    """The guidance of one node during one sampling run.

    Args:
        guidance: what the node asks for.
        guider: ComfyUI's, whose run it is.
        sigmas: of the run.
        latent_shapes: of its latents, more than one where they are the parts of a row.
    """

    def __init__(
        self,
        guidance: Guidance,
        guider: CFGGuider,
        sigmas: Tensor,
        latent_shapes: Sequence[Sequence[int]] = (),
    ) -> None:
        self._guidance = guidance
        self._node = guidance.node
        self._guider = guider
        self._main = guider.model_patcher
        self._noise = noise = noise_of(self._main, sigmas.tolist(), latent_shapes)
        self._call: Call | None = None
        # Whoever predicts beside the main run, by the name under which a call has the prediction.
        self._sides: dict[str, SideRun] = {}
        self._weak: RunningPush | None = None
        self._carried: Carried | None = None
        weak = guidance.weak
        if weak is not None:
            self._sides[_WEAK] = self._weak_side(weak)
            self._weak = RunningPush(_WEAK, weak.push, noise, ["negative"])
            self._carried = Carried(weak.every, noise) if weak.every > 1 else None
        sampler = type(guider).__name__
        self._negative = NegativePush(self._node, guidance.negative, noise, sampler)
        # Two shapes with one and the same prompt share a side.
        self._side_of: dict[str, str] = {}
        self._add_prompts()
        self._finite = Finite(self._node, name_of(self._main))
        # What the guider has predicted from its positive conditioning at the present call, and
        # whether it has asked for our part there.
        self._of_positive: Tensor | None = None
        self._was_asked = False
        # Whether other nodes may write into the predictions that they are given.
        self._others_write = False
        self._watch = Watch(guidance, self._main.get_model_object("latent_format"))

    @property
    def _pushes(self) -> list[RunningPush]:
        return [each for each in (self._weak, self._negative.running) if each is not None]

    def _weak_side(self, weak: WeakPush) -> SideRun:
        model = weak.model_beside(self._main)
        check_pair(self._node, self._main, model)
        has_own_prompt = weak.prompt is not None
        require_difference(self._node, self._main, model, has_own_prompt)
        if not has_own_prompt and "positive" not in self._guider.original_conds:
            raise bad_input(
                self._node,
                "weak_positive",
                "nothing, and the sampler's guider has no conditioning of the name 'positive'",
                "the conditioning that the weak model is to see",
            )
        return SideRun(
            self._node,
            "weak_positive",
            "weak_model",
            self._main,
            model,
            weak.prompt,
            self._guider,
            self._guider.original_conds.get("negative"),
        )

    def _add_prompts(self) -> None:
        known: list[tuple[Conditioning, str]] = []
        for push in self._pushes:
            for shape in push.push.shapes:
                for name, prompt in shape.prompts.items():
                    side = next((side for other, side in known if other is prompt), None)
                    if side is None:
                        side = name
                        known.append((prompt, side))
                        self._sides[side] = SideRun(
                            shape.node,
                            "empty",
                            "empty",
                            self._main,
                            unguided(self._main),
                            prompt,
                            self._guider,
                        )
                    self._side_of[name] = side

    def sample(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Go on with the run, guidance being on, and return its latent.

        The main run takes place inside the runs of all sides; see :mod:`.side_run`.
        """

        def main_run() -> Tensor:
            # Of its own, because a wrapper around this one may go on with the run more than once.
            with comfy.own_options(self._guider) as options:
                self._hang_into(options)
                return executor(*args, **kwargs)

        announce(self._guidance, self._guider)
        run: Callable[[], Tensor] = main_run
        for side in self._sides.values():
            run = partial(side.around, run, args, kwargs)
        try:
            latent = run()
        finally:
            self._call = self._of_positive = None
        look_back(self._guidance, self._noise, self._pushes, self._sides.get(_WEAK))
        self._watch.finish(latent)
        return latent

    def _hang_into(self, options: dict[str, Any]) -> None:
        """Add the pushes, and what they need, to the options of this run alone."""
        sides = self._sides.values()
        models = [model for side in sides for model in side.models_to_load]
        comfy.load_along(options, models, WRAPPER_KEY)
        if comfy.CONTEXT_WINDOWS in options:
            for side in sides:
                side.use_context_windows(options[comfy.CONTEXT_WINDOWS])
        self._share_batch(options)
        self._others_write = any(options.get(k) for k in (comfy.PRE_CFG, comfy.CFG, comfy.POST_CFG))
        # First, so that the functions of others see all of the push. And functions, not methods:
        # ComfyUI clones models by deep copy.
        for name, function in (
            (comfy.PRE_CFG, lambda args: self._before_cfg(args)),
            (comfy.POST_CFG, lambda args: self._after_cfg(args)),
        ):
            options[name] = [function, *options.get(name, [])]
        comfy.wrap(options, WrappersMP.PREDICT_NOISE, WRAPPER_KEY, self._predict_noise)
        if self._weak is not None:
            comfy.wrap(options, WrappersMP.CALC_COND_BATCH, WRAPPER_KEY, self._note_positive)

    def _share_batch(self, options: dict[str, Any]) -> None:
        others = options.get(comfy.BATCH_FUNCTION)
        conds = {}
        # Those of other packs may count on a positive and a negative conditioning only.
        if others is None or isinstance(others, SharedBatch):
            conds = {name: side.conditioning_for_main() for name, side in self._sides.items()}
            conds = {name: cond for name, cond in conds.items() if cond is not None}
        if conds or self._negative.is_scheduled:
            options[comfy.BATCH_FUNCTION] = SharedBatch(
                self._node,
                conds,
                self._call_at,
                self._offer_joined,
                self._wanted,
                self._negative,
                others,
            )

    def _call_at(self, x: Tensor, sigma: Tensor) -> Call:
        """The present model call."""
        if self._call is None or self._call.x is not x or self._call.sigma is not sigma:
            self._call = self._begin_call(x, sigma)
        return self._call

    def _begin_call(self, x: Tensor, sigma: Tensor) -> Call:
        call = Call(x, sigma)
        if self._weak is not None and self._weak.is_on(call):
            call.offer(_WEAK, self._predict_weak)
        for name, side in self._side_of.items():
            predict = self._predict_for if name == side else Call.prediction
            call.offer(name, partial(predict, name=side))
        return call

    def _predict_for(self, call: Call, name: str) -> Tensor:
        return self._checked(call, name, self._sides[name].predict(call.x, call.sigma))

    def _offer_joined(self, call: Call, name: str, R: Tensor) -> None:
        self._sides[name].calls += 1
        call.offer(name, partial(self._checked, name=name, R=R))

    def _checked(self, call: Call, name: str, R: Tensor) -> Tensor:
        side = self._sides[name]
        call.limit(name, side.predicted_where(call.x, call.sigma))
        return self._finite.require(R, call, side)

    def _predict_weak(self, call: Call) -> Tensor:
        """The weak model's prediction, or the one that the difference carried over stands for."""
        if self._is_due(call):
            return self._predict_for(call, _WEAK)
        return call.reuse(_WEAK, self._carried.at(call.sigma, call.level))

    def _is_due(self, call: Call) -> bool:
        """Whether the weak model itself is to predict at this call."""
        return self._carried is None or self._carried.is_due(call.x, call.level)

    def _wanted(self, call: Call, has_negative: bool) -> set[str]:
        """Whose predictions are needed at a call."""
        negative = self._negative.running if has_negative else None
        on = [each for each in (self._weak, negative) if each is not None and each.is_on(call)]
        prompts = [name for push in on for shape in push.push.shapes for name in shape.prompts]
        names = {self._side_of[name] for name in prompts}
        return names | {_WEAK} if self._weak in on and self._is_due(call) else names

    def _note_positive(
        self,
        executor: Any,
        model: Any,
        conds: list[Any],
        x: Tensor,
        timestep: Tensor,
        *args: Any,
    ) -> list[Tensor]:
        """Wrapper of ComfyUI's predictions: remember the one for the positive conditioning."""
        out = executor(model, conds, x, timestep, *args)
        positive = self._guider.conds.get("positive")
        self._of_positive = next(
            (C for cond, C in zip(conds, out, strict=False) if cond is positive),
            self._of_positive,
        )
        return out

    def _predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Wrapper of a model call.

        Weights that are the main model's are reported here, before an artist has waited for a step:
        they are in place by now.
        """
        self._call = call = self._begin_call(x, timestep)
        self._of_positive, self._was_asked = None, False
        side = self._sides.get(_WEAK)
        is_on = self._weak is not None and self._weak.is_on(call)
        if is_on and side.calls == 0 and side.is_main_model():
            raise changes_nothing(self._node, "all of its weights are those of 'model'")
        try:
            guided = executor(x, timestep, *args, **kwargs)
            if is_on and not self._was_asked:
                guided = self._without_cfg(call, guided)
            if self._sides:
                self._finite.see(guided)
            self._watch.see(call, guided)
            return guided
        finally:
            self._call = self._of_positive = None

    def _without_cfg(self, call: Call, guided: Tensor) -> Tensor:
        """The weak push at a call at which the guider has not asked for ours in ComfyUI's way."""
        if guided is not self._of_positive:
            raise bad_input(
                self._node,
                "weak_model",
                f"the guider {type(self._guider).__name__}, which leaves no place for a push away "
                "from a weak model",
                "a guider or sampler that goes by ComfyUI's CFG function, such as KSampler or "
                "CFGGuider",
            )
        self._take_main(call, guided, self._guider.conds["positive"])
        return self._add_weak(call, guided)

    def _before_cfg(self, args: dict[str, Any]) -> list[Tensor]:
        """Pre-CFG function: give the negative push its schedule and shape."""
        call = self._call_at(args["input"], args["sigma"])
        self._take_main(call, args["conds_out"][0], args["conds"][0])
        out = self._negative.rewrite(call, args)
        if not self._others_write:
            return out
        # What is kept here must stay as it is, and two that are one must stay one.
        copies = {id(each): each.clone() for each in out}
        return [copies[id(each)] for each in out]

    def _after_cfg(self, args: dict[str, Any]) -> Tensor:
        """Post-CFG function: add the weak push to the sampler's own guidance."""
        call = self._call_at(args["input"], args["sigma"])
        self._was_asked = True
        if call.C is None:
            self._take_main(call, args["cond_denoised"], args["cond"])
        self._negative.look_at(call, args, measured=self._watch.is_recording)
        guided = args["denoised"]
        if self._weak is None:
            return guided
        if not self._weak.is_on(call):
            if self._carried is not None:
                self._carried.forget()
            call.pushed[_WEAK] = Pushed()
            return guided
        return self._add_weak(call, guided)

    @staticmethod
    def _take_main(call: Call, C: Tensor, cond: InnerConditioning | None) -> None:
        call.C = C
        if cond is not None:
            call.limit("", comfy.predicted_where(cond, call.x, call.sigma))

    def _add_weak(self, call: Call, before: Tensor) -> Tensor:
        guided, pushed = self._weak.add_to(before, call)
        if not call.is_reused(_WEAK):
            delta = call.difference(_WEAK)
            # Where nothing was predicted, that there is no difference says nothing.
            if not call.is_limited(_WEAK):
                self._sides[_WEAK].compare(call.C, delta)
            if self._carried is not None:
                self._carried.find(delta, call.sigma, call.level)
        if self._watch.is_recording:
            pushed = replace(pushed, added=guided - before)
        call.pushed[_WEAK] = pushed
        return guided
