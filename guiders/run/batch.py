"""One batch for the run's own predictions and for those beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import comfy
from ..comfy import BatchFunction, InnerConditioning
from .negative import has_negative
from .side_run import TOLD_ELSEWHERE

if TYPE_CHECKING:
    from torch import Tensor

    from ..push.call import Call
    from .negative import NegativePush


@dataclass(frozen=True)
class SharedBatch:
    """Batch function of a run: lets the main model predict for others too.

    Where only the conditioning differs, ComfyUI puts it into one batch with the run's own, if they
    fit. Guiders that do not ask this function for their predictions leave the others their own
    passes; and so does a batch that fails, since a patch of another pack may know of a positive and
    a negative conditioning only.

    Attributes:
        node: display name of the artist's node, for the log.
        conds: what the main model may predict from, by name of who needs it; empty once a batch has
            failed.
        call_at: the present model call, by ``x`` and sigma.
        offer: is told a prediction that was made along, by its name.
        wanted: whose predictions a call needs, with or without a negative prompt.
        negative: the sampler's own push, for which no pass is made where it is off.
        others: the function that stood here before.
    """

    node: str
    conds: dict[str, InnerConditioning]
    call_at: Callable[[Tensor, Tensor], Call]
    offer: Callable[[Call, str, Tensor], None]
    wanted: Callable[[Call, bool], set[str]]
    negative: NegativePush
    others: BatchFunction | None

    def __call__(self, args: dict[str, Any]) -> list[Tensor]:
        """Predict for the run's own conditionings, and for others along with them."""
        predict = self.others or comfy.predict_batch
        call = self.call_at(args["input"], args["sigma"])
        own = list(args["conds"])
        switched_off = has_negative(own) and not self.negative.is_on(call)
        if switched_off and not comfy.mixes_prompts(args["model_options"]):
            own[1] = None  # As ComfyUI does at a cfg of 1; no pass is made for it.
        wanted = self.wanted(call, has_negative(own))
        names = [name for name in self.conds if name in wanted]
        try:
            out = predict({**args, "conds": [*own, *(self.conds[name] for name in names)]})
        except TOLD_ELSEWHERE:
            raise
        except Exception:
            if not names:
                raise
            out = predict({**args, "conds": own})  # Raises where the run's own are at fault.
            names = []
            self.conds.clear()
            logging.info(
                "%s: its prompts cannot be predicted for in one batch with those of the sampler, "
                "and get passes of their own.",
                self.node,
                exc_info=True,
            )
        for name, R in zip(names, out[len(own) :], strict=True):
            self.offer(call, name, R)
        out = list(out[: len(own)])
        if switched_off:
            out[1] = out[0]  # ComfyUI has zeros there.
        return out
