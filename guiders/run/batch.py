"""One batch for the run's own predictions and for those beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import comfy
from ..comfy import BatchFunction, InnerConditioning
from .negative import has_negative
from .side_run import TOLD_ELSEWHERE, SideRun

if TYPE_CHECKING:
    from torch import Tensor

    from ..push.call import Call
    from .negative import NegativePush


@dataclass(frozen=True)
class SharedBatch:
    """Batch function of a run: lets the main model predict for others too.

    Where only the conditioning differs, ComfyUI puts it into one batch with the run's own, if they
    fit. Guiders that do not ask this function for their predictions leave the others their own
    passes.

    Attributes:
        conds: what the main model may predict from, by name of who needs it.
        sides: who that is.
        call_at: the present model call, by ``x`` and sigma.
        wanted: whose predictions a call needs, with or without a negative prompt.
        negative: the sampler's own push, for which no pass is made where it is off.
        others: the function that stood here before.
    """

    conds: Mapping[str, InnerConditioning]
    sides: Mapping[str, SideRun]
    call_at: Callable[[Tensor, Tensor], Call]
    wanted: Callable[[Call, bool], set[str]]
    negative: NegativePush
    others: BatchFunction | None

    def __call__(self, args: dict[str, Any]) -> list[Tensor]:
        """Predict for the run's own conditionings, and for others along with them."""
        predict = self.others or comfy.predict_batch
        call = self.call_at(args["input"], args["sigma"])
        own = list(args["conds"])
        switched_off = has_negative(own) and not self.negative.is_on(call)
        if switched_off:
            own[1] = None  # As ComfyUI does at a cfg of 1; no pass is made for it.
        wanted = self.wanted(call, has_negative(own))
        names = [name for name in self.conds if name in wanted]
        try:
            out = predict({**args, "conds": [*own, *(self.conds[name] for name in names)]})
        except TOLD_ELSEWHERE:
            raise
        except Exception as error:
            new = [name for name in names if not self.sides[name].calls]
            if not new:
                raise
            predict({**args, "conds": own})  # Raises where the run's own are at fault.
            raise self._unfit(new, args, predict).cannot_take_prompt() from error
        for name, R in zip(names, out[len(own) :], strict=True):
            call.take(name, self.sides[name].checked(R, args["sigma"]))
        out = list(out[: len(own)])
        if switched_off:
            out[1] = out[0]  # ComfyUI has zeros there.
        return out

    def _unfit(self, names: list[str], args: dict[str, Any], predict: BatchFunction) -> SideRun:
        """Find out whose conditioning fails."""
        for name in names[:-1]:
            try:
                predict({**args, "conds": [self.conds[name]]})
            except Exception:
                return self.sides[name]
        return self.sides[names[-1]]
