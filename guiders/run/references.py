"""A prediction beside the main one: of a weak model, or of the main model for another prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from comfy.sampler_helpers import convert_cond

from ..errors import GuidanceError, bad_input
from ..models import name_of, rounding_of, set_up_alike
from .weak_run import TOLD_ELSEWHERE, CannotPrepareError, InnerConditioning, WeakRun

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

    from ..push.call import Conditioning


class Reference:
    """What one model predicts from one conditioning, while a run of another model goes on.

    Args:
        node: display name of the artist's node, for messages.
        input_name: its input for the conditioning.
        model_input: its input that a prediction which cannot be used is to be blamed on.
        main: patcher of the main model.
        model: patcher of the model that predicts; the main model itself where only the
            conditioning differs.
        own: what it sees, if the artist has plugged something in.
        otherwise: what it sees where nothing is plugged in.
    """

    def __init__(
        self,
        node: str,
        input_name: str,
        model_input: str,
        main: ModelPatcher,
        model: ModelPatcher,
        own: Conditioning | None,
        otherwise: InnerConditioning | None = None,
    ) -> None:
        self._node = node
        self._input_name = input_name
        self._model_input = model_input
        self._main = main
        self._model = model
        self._has_own = own is not None
        self._conditioning = convert_cond(own) if own is not None else otherwise or []
        self._run = WeakRun(main, model, self._conditioning)
        # Relative to the norm of a prediction, how far two of the same may lie apart.
        self.rounding = rounding_of(model)
        self.calls = 0

    def around(
        self, main_run: Callable[[], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """Stand ready while ``main_run`` goes on, and return its latent.

        Args:
            args: of the main guider's ``outer_sample``.
            kwargs: likewise.
        """
        try:
            return self._run.around(main_run, args, kwargs)
        except CannotPrepareError as error:
            raise self.cannot_take_conditioning() from error

    @property
    def models_to_load(self) -> list[ModelPatcher]:
        """What ComfyUI must load along with the main model, beside its additional models."""
        return self._run.models_to_load

    def use_context_windows(self, handler: Any) -> None:
        """Show this model no more frames at once than the main one, unless it has its own."""
        self._run.use_context_windows(handler)

    def is_main_model(self) -> bool:
        """Whether it is the main model with nothing changed."""
        return set_up_alike(self._main, self._model) and self._run.has_weights_of_main()

    def conditioning_for_main(self) -> InnerConditioning | None:
        """What the main model may predict from in this one's place, in one batch with its own.

        None where it cannot, because more than the conditioning differs.
        """
        if not self._has_own or not set_up_alike(self._main, self._model):
            return None
        return self._run.conditioning_for_main()

    def predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The prediction, in a pass of its own."""
        try:
            R = self._run.predict(x, sigma)
        except TOLD_ELSEWHERE:
            raise
        except Exception as error:
            if self.calls:
                raise
            raise self.cannot_take_conditioning() from error
        return self.checked(R, sigma)

    def checked(self, R: Tensor, sigma: Tensor) -> Tensor:
        """Count a prediction, and return it if it is finite."""
        self.calls += 1
        if not torch.isfinite(R).all():
            raise GuidanceError(
                f"{self._node}, input '{self._model_input}': the prediction of "
                f"{name_of(self._model)} at sigma {float(sigma.max()):.4g} has NaN or infinity in "
                "it, so no picture was made. Expected finite numbers; load the model in a wider "
                "dtype (bf16 or fp32), or without the patch that breaks it."
            )
        return R

    def cannot_take_conditioning(self) -> GuidanceError:
        """The error for a conditioning that fails."""
        shapes = ", ".join(
            f"{key} {tuple(value.shape)}"
            for cond in self._conditioning
            for key, value in cond.items()
            if isinstance(value, torch.Tensor)
        )
        otherwise = "nothing, so the positive conditioning of the run"
        came = "a conditioning" if self._has_own else otherwise
        return bad_input(
            self._node,
            self._input_name,
            f"{came} ({shapes or 'no tensors'}), from which {name_of(self._model)} could not make "
            "a prediction",
            "a conditioning encoded by that model's own text encoder, with control nets made for "
            "it",
        )
