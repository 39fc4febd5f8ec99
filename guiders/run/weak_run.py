"""The weak model's side of a sampling run, set up by ComfyUI itself.

The main run takes place *inside* a run of a second ``CFGGuider``, made for the weak model, whose
sampler does nothing but start the main run. So loading, conditioning, masks, hooks, control nets
and cleaning up are ComfyUI's own code for both models, whatever its release.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import comfy.samplers
from comfy.model_management import OOM_EXCEPTION, InterruptProcessingException

from ..errors import GuidanceError
from ..models import weights_alike
from .weight_swap import WeightSwap, run_patcher

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

# A conditioning in ComfyUI's inner form, as guiders hold it.
InnerConditioning = list[dict[str, Any]]

# What ComfyUI or this pack knows how to tell an artist; all else needs a translation.
TOLD_ELSEWHERE = (GuidanceError, InterruptProcessingException, OOM_EXCEPTION)


class CannotPrepareError(Exception):
    """ComfyUI could not prepare the weak model's conditioning; the cause says why."""


class WeakRun(comfy.samplers.CFGGuider):
    """A weak model that stands ready for predictions while a main run goes on.

    Args:
        main: patcher of the main model.
        weak: patcher of the weak model: another checkpoint, which ``main`` has among its additional
            models, or the same base.
        positive: what the weak model sees.
    """

    def __init__(self, main: ModelPatcher, weak: ModelPatcher, positive: InnerConditioning) -> None:
        self._main = main
        self._weak = weak
        self._shares_base = weak.is_clone(main)
        super().__init__(run_patcher(main, weak) if self._shares_base else weak)
        self.original_conds = {"positive": _with_own_hooks(positive)}
        self._swap: WeightSwap | None = None
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
        self._options: dict[str, Any] = {}
        self._started = False

    def around(
        self, main_run: Callable[[], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """Set the weak model up, call ``main_run``, clean up, and return the latent it returned.

        Args:
            main_run: goes on with the main run; it may call :meth:`predict`.
            args: of the main guider's ``outer_sample``: noise, latent image, sampler, sigmas, …
            kwargs: likewise.

        Raises:
            CannotPrepareError: where the conditioning does not fit the weak model.
        """
        result: list[Tensor] = []

        def start(options: dict[str, Any]) -> None:
            self._options = options
            if self._shares_base:
                self._swap = WeightSwap(self._main, self._weak, self.model_patcher)
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
            raise CannotPrepareError from error

    def use_context_windows(self, handler: Any) -> None:
        """Show the weak model no more frames at once than the main one, unless it has its own."""
        self._options.setdefault("context_handler", handler)

    def has_weights_of_main(self) -> bool:
        """Whether all of the weak model's weights are, bit for bit, those of the main one."""
        if self._swap is not None:
            return self._swap.changes_nothing
        return weights_alike(self._main, self._weak)

    @property
    def models_to_load(self) -> list[ModelPatcher]:
        """What ComfyUI must load along with the main model, beside its additional models."""
        return [] if self._swap is None else self._swap.models_to_load

    def conditioning_for_main(self) -> InnerConditioning | None:
        """The prepared conditioning, where the main model has the weights to predict from it.

        None too where the conditioning has hooks, which are registered for the weak model alone.
        """
        conds = self.conds["positive"]
        if self._swap is None or not self._swap.changes_nothing:
            return None
        return None if any(cond.get("hooks") is not None for cond in conds) else conds

    def predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The weak model's denoised prediction.

        Args:
            x: noisy latent ``[batch, channels, *spatial]``.
            sigma: its noise level, ``[batch]``.

        Returns:
            A tensor like ``x``, on its device.
        """
        if self.inner_model.current_patcher is None:
            # A main run cleans its additional models up, and another pack may start it again.
            self.model_patcher.pre_run()
        device = self.model_patcher.load_device
        with self._swap.in_place() if self._swap is not None else nullcontext():
            (denoised,) = comfy.samplers.calc_cond_batch(
                self.inner_model,
                [self.conds["positive"]],
                x.to(device),
                sigma.to(device),
                self._options,
            )
        return denoised.to(x.device)


class _StartMainRun(comfy.samplers.Sampler):
    """A sampler without steps: ComfyUI calls it once the weak model stands ready."""

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


def _with_own_hooks(conds: InnerConditioning) -> InnerConditioning:
    """Copy a conditioning, its hook keyframes included.

    A keyframe tells only the first model that asks that its strength has changed.
    """
    copies = [cond.copy() for cond in conds]
    groups: dict[int, Any] = {}
    for cond in copies:
        if "hooks" not in cond:
            continue
        shared = id(cond["hooks"])
        if shared not in groups:
            groups[shared] = cond["hooks"].clone()
            for hook in groups[shared].hooks:
                hook.hook_keyframe = hook.hook_keyframe.clone()
        cond["hooks"] = groups[shared]
    return copies
