"""What had NaN or infinity first, where a prediction turns out to have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import GuidanceError

if TYPE_CHECKING:
    from torch import Tensor

    from ..push.call import Call
    from .side_run import SideRun


class Finite:
    """Checks predictions, and looks for the source of what is not finite.

    Args:
        node: display name of the artist's node, for messages.
        main: name of the main model.
    """

    def __init__(self, node: str, main: str) -> None:
        self._node = node
        self._main = main
        # What the sampler got at the call before this one; on its device, without waiting for it.
        self._result_was: Tensor | None = None

    def require(self, R: Tensor, call: Call, side: SideRun) -> Tensor:
        """Return a prediction if it is finite, and ``C`` too.

        Args:
            R: the prediction.
            call: with ``C``.
            side: what has made it.

        Raises:
            GuidanceError: which blames what had NaN or infinity before all else.
        """
        if torch.isfinite(R).all() & torch.isfinite(call.C).all():
            return R
        sigma = f"at sigma {call.level:.4g}"
        wider = (
            "load the model in a wider dtype (bf16 or fp32), or without the patch that breaks it"
        )
        if not torch.isfinite(call.x).all():
            raise self._error(*self._source_of_latent(sigma))
        if not torch.isfinite(call.C).all():
            raise self._error("model", f"the prediction of {self._main} {sigma}", wider)
        raise self._error(side.model_input, f"the prediction of {side.model_name} {sigma}", wider)

    def see(self, result: Tensor) -> None:
        """Remember what the sampler gets at a call."""
        self._result_was = torch.isfinite(result).all()

    def _source_of_latent(self, sigma: str) -> tuple[str, str, str]:
        if self._result_was is None:
            what = "the latent or the noise that the sampler starts from"
            return "", what, "look at the node that makes the latent"
        if not self._result_was:
            what = f"the guided prediction of the step before the one {sigma}"
            look = "look at the other nodes on the model, those that change guidance first"
            return "", what, look
        return "", f"the latent {sigma}", "choose another sampler or scheduler"

    def _error(self, name: str, what: str, look: str) -> GuidanceError:
        where = f"{self._node}, input '{name}'" if name else self._node
        return GuidanceError(
            f"{where}: {what} has NaN or infinity in it, so no image was made. Expected finite "
            f"numbers; {look}."
        )
