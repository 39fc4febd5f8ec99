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
        # Of the call before this one, each on its device, without waiting for it.
        self._C_was: Tensor | None = None
        self._result_was: Tensor | None = None

    def require(self, R: Tensor, call: Call, side: SideRun) -> Tensor:
        """Return a prediction if it is finite.

        Args:
            R: the prediction.
            call: with ``C``.
            side: what has made it.

        Raises:
            GuidanceError: which blames what had NaN or infinity before all else.
        """
        if torch.isfinite(R).all():
            return R
        sigma = f"at sigma {call.level:.4g}"
        wider = (
            "load the model in a wider dtype (bf16 or fp32), or without the patch that breaks it"
        )
        if not torch.isfinite(call.x).all():
            raise self._error(*self._source_of_latent(sigma, wider))
        if not torch.isfinite(call.C).all():
            raise self._error("model", f"the prediction of {self._main} {sigma}", wider)
        raise self._error(side.model_input, f"the prediction of {side.model_name} {sigma}", wider)

    def see(self, call: Call, result: Tensor) -> None:
        """Remember a call that is over, and what the sampler gets."""
        if call.C is not None:
            self._C_was, self._result_was = (torch.isfinite(t).all() for t in (call.C, result))

    def _source_of_latent(self, sigma: str, wider: str) -> tuple[str, str, str]:
        if self._result_was is None:
            what = "the latent or the noise that the sampler starts from"
            return "", what, "look at the node that makes the latent"
        if not self._C_was:
            return "model", f"the prediction of {self._main} at the step before, {sigma},", wider
        if not self._result_was:
            what = f"the guided prediction at the step before, {sigma}, but no model's prediction,"
            return "", what, "look at the other nodes on the model that change guidance, and at cfg"
        return "", f"the latent {sigma}, but no prediction,", "choose another sampler or scheduler"

    def _error(self, name: str, what: str, look: str) -> GuidanceError:
        where = f"{self._node}, input '{name}'" if name else self._node
        return GuidanceError(
            f"{where}: {what} has NaN or infinity in it, so no image was made. Expected finite "
            f"numbers; {look}."
        )
