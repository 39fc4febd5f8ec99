"""A prediction beside the main one: of a weak model, or of the main model for another prompt.

The main run takes place *inside* a run of a second ``CFGGuider``, made for the model that predicts,
whose sampler does nothing but start the main run:

    GuidedRun.sample
        SideRun.around                   ComfyUI loads the weak model and prepares its prompt
            SideRun.inner_sample         ComfyUI hands over to the sampler: _StartMainRun
                the main run             ComfyUI's own, of the artist's model and sampler
                    SideRun.predict      at each step, as it is asked for
        ComfyUI cleans up after the weak model

So loading, conditioning, masks, hooks, control nets and cleaning up are ComfyUI's own code for both
models, whatever its release.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from .. import comfy
from ..comfy import CFGGuider, InnerConditioning, Sampler
from ..errors import GuidanceError, bad_input
from ..models import name_of, rounding_of, set_up_alike, weights_alike
from ..push import formulas
from .weight_swap import WeightSwap, run_patcher

if TYPE_CHECKING:
    from torch import Tensor

    from ..comfy import ModelPatcher
    from ..push.call import Conditioning

# What ComfyUI or this pack knows how to tell an artist; all else needs a translation.
TOLD_ELSEWHERE = (GuidanceError, *comfy.CANCEL_OR_MEMORY)


class SideRun(CFGGuider):
    """What one model predicts from one conditioning, while a run of another model goes on.

    Args:
        node: display name of the artist's node, for messages.
        prompt_input: its input for the conditioning.
        model_input: its input that a prediction which cannot be used is to be blamed on.
        main: patcher of the main model.
        model: patcher of the model that predicts: another checkpoint, which ``main`` has among its
            additional models, or the same base.
        prompt: what it sees, if the artist has connected something.
        otherwise: what it sees where nothing is connected.

    Attributes:
        calls: how many predictions it has made.
        has_differed: whether any of them was another than that of the main model.
    """

    def __init__(
        self,
        node: str,
        prompt_input: str,
        model_input: str,
        main: ModelPatcher,
        model: ModelPatcher,
        prompt: Conditioning | None,
        otherwise: InnerConditioning | None = None,
    ) -> None:
        self._node = node
        self._prompt_input = prompt_input
        self._model_input = model_input
        self._main = main
        self._model = model
        self._has_own_prompt = prompt is not None
        self._prompt = comfy.convert_cond(prompt) if prompt is not None else otherwise or []
        predicts = comfy.able_to_hook(model, self._prompt)
        self._shares_base = predicts.is_clone(main)
        self._is_delegate = predicts is not model
        super().__init__(run_patcher(main, predicts) if self._shares_base else predicts)
        self.original_conds = {"positive": comfy.with_own_hooks(self._prompt)}
        self._swap: WeightSwap | None = None
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
        self._options: dict[str, Any] = {}
        self._started = False
        self._rounding = rounding_of(model)
        self.calls = 0
        self.has_differed = False

    def around(
        self, main_run: Callable[[], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """Set the model up, call ``main_run``, clean up, and return the latent it returned.

        Args:
            main_run: goes on with the main run; it may call :meth:`predict`.
            args: of the main guider's ``outer_sample``: noise, latent image, sampler, sigmas, …
            kwargs: likewise.

        Raises:
            GuidanceError: where the conditioning does not fit the model.
        """
        result: list[Tensor] = []

        def start(options: dict[str, Any]) -> None:
            self._options = options
            if self._shares_base:
                self._swap = WeightSwap(self._main, self._model, self.model_patcher)
            self._started = True
            result.append(main_run())

        noise, latent_image, _, sigmas, *rest = args
        sampler = _StartMainRun(start)
        self._arguments = (noise, latent_image, sampler, sigmas, *rest), kwargs
        try:
            self.sample(noise, latent_image, sampler, sigmas)
        finally:
            # Both sit in a reference cycle, and would keep weights and latents until it is found.
            self._arguments, self._swap = ((), {}), None
        return result[0]

    def outer_sample(self, *_: Any, **__: Any) -> Tensor:
        """Enter with the main run's own arguments: packed latents, their shapes, mask and seed."""
        args, kwargs = self._arguments
        return super().outer_sample(*args, **kwargs)

    def inner_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        """Prepare latents and conditioning, then start the main run."""
        try:
            return super().inner_sample(*args, **kwargs)
        except TOLD_ELSEWHERE:
            raise
        except Exception as error:
            if self._started:
                raise
            raise self.cannot_take_prompt() from error

    def use_context_windows(self, handler: Any) -> None:
        """Show this model no more frames at once than the main one, unless it has its own."""
        self._options.setdefault(comfy.CONTEXT_WINDOWS, handler)

    def is_main_model(self) -> bool:
        """Whether it is, weights included, the main model with nothing changed; once loaded."""
        if self._has_own_prompt or not set_up_alike(self._main, self._model):
            return False
        if self._swap is not None:
            return self._swap.changes_nothing
        return weights_alike(self._main, self._model)

    @property
    def models_to_load(self) -> list[ModelPatcher]:
        """What ComfyUI must load along with the main model, beside its additional models."""
        if self._is_delegate:
            return [self.model_patcher]
        return [] if self._swap is None else self._swap.models_to_load

    def conditioning_for_main(self) -> InnerConditioning | None:
        """What the main model may predict from in this one's place, in one batch with its own.

        None where it cannot, because more than the conditioning differs, or because the
        conditioning has hooks, which are registered for this model alone.
        """
        if not self._has_own_prompt or not set_up_alike(self._main, self._model):
            return None
        if self._swap is None or not self._swap.changes_nothing:
            return None
        conds = self.conds["positive"]
        return None if any(cond.get("hooks") is not None for cond in conds) else conds

    def predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised prediction, in a pass of its own.

        Args:
            x: noisy latent ``[batch, channels, *spatial]``.
            sigma: its noise level, ``[batch]``.

        Returns:
            A tensor like ``x``, on its device.
        """
        # A main run cleans its additional models up, and another pack may start it again.
        comfy.make_ready_again(self)
        try:
            with self._swap.in_place() if self._swap is not None else nullcontext():
                R = comfy.predict(self, "positive", x, sigma, self._options)
        except TOLD_ELSEWHERE:
            raise
        except Exception as error:
            if self.calls:
                raise
            raise self.cannot_take_prompt() from error
        return self.checked(R, sigma)

    def checked(self, R: Tensor, sigma: Tensor) -> Tensor:
        """Count a prediction, and return it if it is finite."""
        self.calls += 1
        if not torch.isfinite(R).all():
            raise GuidanceError(
                f"{self._node}, input '{self._model_input}': the prediction of "
                f"{name_of(self._model)} at sigma {float(sigma.max()):.4g} has NaN or infinity in "
                "it, so no image was made. Expected finite numbers; load the model in a wider "
                "dtype (bf16 or fp32), or without the patch that breaks it."
            )
        return R

    def compare(self, C: Tensor, delta: Tensor) -> None:
        """Note whether a prediction differs from ``C`` of the main model by more than rounding."""
        if not self.has_differed:
            least = self._rounding * formulas.norm(C).max()
            self.has_differed = bool(formulas.norm(delta).max() > least)

    def cannot_take_prompt(self) -> GuidanceError:
        """The error for a conditioning that fails."""
        shapes = ", ".join(
            f"{key} {tuple(value.shape)}"
            for cond in self._prompt
            for key, value in cond.items()
            if isinstance(value, torch.Tensor)
        )
        otherwise = "nothing, so the positive conditioning of the run"
        came = "a conditioning" if self._has_own_prompt else otherwise
        return bad_input(
            self._node,
            self._prompt_input,
            f"{came} ({shapes or 'no tensors'}), from which {name_of(self._model)} could not make "
            "a prediction",
            "a conditioning encoded by that model's own text encoder, with control nets made for "
            "it",
        )


class _StartMainRun(Sampler):
    """A sampler without steps: ComfyUI calls it once the model stands ready."""

    def __init__(self, start: Callable[[dict[str, Any]], None]) -> None:
        self._start = start

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        self._start(extra_args["model_options"])
        return noise
