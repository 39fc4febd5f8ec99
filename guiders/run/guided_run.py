"""The guidance of one node during one sampling run.

While the run lasts, one post-CFG function stands first on the run's own list and adds the pushes
away from weak models, one pre-CFG function gives the push away from the negative prompt its
schedule and shape, and a batch function asks for what they need along with the run's own
predictions. Pushes away from the image's own past are added last, to what the sampler gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import comfy
from ..comfy import InnerConditioning, WrappersMP
from ..errors import bad_input
from ..models import name_of, noise_of
from ..push.call import HISTORY, NEGATIVE, Call, Conditioning, numbered
from .batch import SharedBatch
from .finite import Finite
from .negative import NegativePush
from .running_history import RunningHistoryPush
from .running_weak import RunningWeak
from .settings import WRAPPER_KEY, Guidance, unguided
from .side_run import SideRun
from .watch import Watch, announce, look_back

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import CFGGuider
    from ..push.push import RunningPush


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
        names = [each.name for each in guidance.weak]
        self._weak = [
            RunningWeak(
                each,
                self._main,
                guider,
                noise,
                [NEGATIVE, *(name for name in names if name != each.name)],
            )
            for each in guidance.weak
        ]
        self._sides |= {each.name: each.side for each in self._weak}
        sampler = type(guider).__name__
        self._negative = NegativePush(self._node, guidance.negative, noise, sampler, names)
        self._history = [
            RunningHistoryPush(numbered(HISTORY, number), each, noise)
            for number, each in enumerate(guidance.history)
        ]
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
        all_names = [*names, *(each.push.name for each in self._history)]
        self._watch = Watch(guidance, all_names, self._main.get_model_object("latent_format"))

    @property
    def _pushes(self) -> list[RunningPush]:
        """Those that shapes and schedules act on at ComfyUI's own call."""
        negative = self._negative.running
        return [*(each.push for each in self._weak), *([] if negative is None else [negative])]

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
        look_back(self._node, self._noise, self._weak, self._negative.running, self._history)
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
        if self._weak:
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
        for weak in self._weak:
            weak.begin(call, self._predict_for)
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

    def _wanted(self, call: Call, has_negative: bool) -> set[str]:
        """Whose predictions are needed at a call."""
        absent = None if has_negative else self._negative.running
        on = [push for push in self._pushes if push is not absent and push.is_on(call)]
        prompts = [name for push in on for shape in push.push.shapes for name in shape.prompts]
        weak = {each.name for each in self._weak if each.is_wanted(call)}
        return weak | {self._side_of[name] for name in prompts}

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
        on = [weak for weak in self._weak if weak.push.is_on(call)]
        for weak in on:
            weak.require_other_weights()
        try:
            guided = executor(x, timestep, *args, **kwargs)
            if on and not self._was_asked:
                guided = self._without_cfg(call, guided)
            if self._sides:
                self._finite.see(guided)
            D = guided
            for history in self._history:
                guided = history.add_to(guided, call, D, measured=self._watch.is_recording)
            for push in self._pushes:
                push.end(call)
            self._watch.see(call, guided)
            return guided
        finally:
            self._call = self._of_positive = None

    def _without_cfg(self, call: Call, guided: Tensor) -> Tensor:
        """The weak pushes at a call at which the guider has not asked for ours in ComfyUI's way."""
        if guided is not self._of_positive:
            names = self._weak[0].settings.names
            raise bad_input(
                names.node,
                names.model,
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
        return self._add_weak(call, args["denoised"])

    @staticmethod
    def _take_main(call: Call, C: Tensor, cond: InnerConditioning | None) -> None:
        call.C = C
        if cond is not None:
            call.limit("", comfy.predicted_where(cond, call.x, call.sigma))

    def _add_weak(self, call: Call, guided: Tensor) -> Tensor:
        for weak in self._weak:
            guided = weak.add_to(guided, call, measured=self._watch.is_recording)
        return guided
