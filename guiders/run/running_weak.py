"""One push away from a weak model, during one sampling run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import bad_input
from ..models import changes_nothing, check_pair, require_difference
from ..push.call import Pushed
from ..push.memory import Carried
from ..push.push import RunningPush
from .side_run import SideRun

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import CFGGuider, ModelPatcher
    from ..push.call import Call
    from ..push.noise import Noise
    from .settings import WeakPush


class RunningWeak:
    """A push away from a weak model during one run: who predicts, and what is added.

    Args:
        settings: of the push.
        main: patcher of the main model, as it runs.
        guider: ComfyUI's, whose run it is.
        noise: of the run.
        others: names of the pushes that shapes compare with.

    Attributes:
        settings: as above.
        name: under which a call has the weak model's prediction.
        push: the arithmetic of it.
        side: what predicts for the weak model.

    Raises:
        GuidanceError: where the two models do not fit together, or are the same one.
    """

    def __init__(
        self,
        settings: WeakPush,
        main: ModelPatcher,
        guider: CFGGuider,
        noise: Noise,
        others: Sequence[str],
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.push = RunningPush(self.name, settings.push, noise, others)
        self.side = self._side(main, guider)
        self._carried = Carried(settings.every, noise) if settings.every > 1 else None

    def _side(self, main: ModelPatcher, guider: CFGGuider) -> SideRun:
        names, prompt = self.settings.names, self.settings.prompt
        model = self.settings.model_beside(main)
        check_pair(names.node, main, model)
        require_difference(names.node, main, model, prompt is not None)
        if prompt is None and "positive" not in guider.original_conds:
            raise bad_input(
                names.node,
                names.prompt,
                "nothing, and the sampler's guider has no conditioning of the name 'positive'",
                "the conditioning that the weak model is to see",
            )
        return SideRun(
            names.node,
            names.prompt,
            names.model,
            main,
            model,
            prompt,
            guider,
            guider.original_conds.get("negative"),
        )

    def begin(self, call: Call, predict: Callable[[Call, str], Tensor]) -> None:
        """Offer the weak model's prediction to a call, if the push is on there.

        Args:
            predict: makes the prediction of a side.
        """

        def predict_weak(call: Call) -> Tensor:
            """The weak model's prediction, or the one that a difference carried over stands for."""
            if self._is_due(call):
                return predict(call, self.name)
            return call.reuse(self.name, self._carried.at(call.sigma, call.level))

        if self.push.is_on(call):
            call.offer(self.name, predict_weak)

    def is_wanted(self, call: Call) -> bool:
        """Whether the weak model itself is to predict at a call."""
        return self.push.is_on(call) and self._is_due(call)

    def _is_due(self, call: Call) -> bool:
        return self._carried is None or self._carried.is_due(call.x, call.level)

    def require_other_weights(self) -> None:
        """Raise ``GuidanceError`` where the weights in place are the main model's.

        Before the first prediction, so that an artist does not wait for a step.
        """
        if self.side.calls == 0 and self.side.is_main_model():
            names = self.settings.names
            raise changes_nothing(
                names.node, "all of its weights are those of 'model'", names.model
            )

    def add_to(self, before: Tensor, call: Call, *, measured: bool) -> Tensor:
        """Add the push at one call to a prediction.

        Args:
            before: what the sampler would get without it.
            call: with ``C``.
            measured: whether it matters how much was added.
        """
        if not self.push.is_on(call):
            if self._carried is not None:
                self._carried.forget()
            call.pushed[self.name] = Pushed()
            return before
        guided, pushed = self.push.add_to(before, call)
        if not call.is_reused(self.name):
            delta = call.difference(self.name)
            # Where nothing was predicted, that there is no difference says nothing.
            if not call.is_limited(self.name):
                self.side.compare(call.C, delta)
            if self._carried is not None:
                self._carried.find(delta, call.sigma, call.level)
        call.pushed[self.name] = replace(pushed, added=guided - before) if measured else pushed
        return guided
