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
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from .. import comfy
from ..comfy import CFGGuider, InnerConditioning, Sampler
from ..errors import GuidanceError, bad_input
from ..models import name_of, rounding_of, set_up_alike, weights_alike
from ..push import formulas
from .network_state import NetworkState
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
        guider: of the main run, whose positive conditioning is what it sees where nothing is
            connected.
        negative: what patches that mix the prompts of a pass are to mix into its prediction, if
            there is anything, as they mix it into the main model's; converted.

    Attributes:
        model_input: as above.
        model_name: of the model's architecture.
        calls: how many predictions it has made.
    """

    def __init__(
        self,
        node: str,
        prompt_input: str,
        model_input: str,
        main: ModelPatcher,
        model: ModelPatcher,
        prompt: Conditioning | None,
        guider: CFGGuider,
        negative: InnerConditioning | None = None,
    ) -> None:
        self._node = node
        self._prompt_input = prompt_input
        self.model_input = model_input
        self._main = main
        self._model = model
        self.model_name = name_of(model)
        self._has_own_prompt = prompt is not None
        self._guider = guider
        own = None if prompt is None else comfy.convert_cond(prompt)
        self._prompt = guider.original_conds["positive"] if own is None else own
        predicts = comfy.able_to_hook(model, self._prompt)
        self._shares_base = predicts.is_clone(main)
        self._is_delegate = predicts is not model
        super().__init__(run_patcher(main, predicts) if self._shares_base else predicts)
        self.original_conds = {"positive": comfy.with_own_hooks(self._prompt)}
        if negative is not None and comfy.mixes_prompts(model.model_options):
            self.original_conds["negative"] = comfy.with_own_hooks(negative)
        self._swap: WeightSwap | None = None
        self._state: NetworkState | None = None
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
        self._options: dict[str, Any] = {}
        self._started = False
        self._rounding = rounding_of(model)
        self.calls = 0
        # Of each prediction of its own whether it was another than the main model's.
        self._differed: list[Tensor] = []

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
                self._state = NetworkState(self.inner_model.diffusion_model)
            self._started = True
            result.append(main_run())

        noise, latent_image, _, sigmas, *rest = args
        sampler = _StartMainRun(start)
        self._arguments = (noise, latent_image, sampler, sigmas, *rest), kwargs
        try:
            self.sample(noise, latent_image, sampler, sigmas)
        finally:
            # Both sit in a reference cycle, and would keep weights and latents until it is found.
            self._arguments, self._swap, self._state = ((), {}), None, None
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
            raise self._cannot_prepare(error) from error

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

        None where it cannot, because more than the conditioning differs, because the conditioning
        has hooks, which are registered for this model alone, or because patches would mix another
        prompt into a positive prediction only.
        """
        if "negative" in self.conds:
            return None
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
        try:
            R = self._predict("positive", x, sigma)
        except TOLD_ELSEWHERE:
            raise
        except Exception as error:
            if self.calls:
                raise
            raise self._cannot_predict(x, sigma, error) from error
        self.calls += 1
        return R

    def predicted_where(self, x: Tensor, sigma: Tensor) -> Tensor | None:
        """Where its conditioning makes it predict anything; None for everywhere."""
        return comfy.predicted_where(self.conds["positive"], x, sigma)

    def compare(self, C: Tensor, delta: Tensor) -> None:
        """Note whether a prediction differs from ``C`` of the main model by more than rounding."""
        least = self._rounding * formulas.norm(C).max()
        self._differed.append(formulas.norm(delta).max() > least)

    def same_as_main(self) -> tuple[int, int]:
        """Of how many predictions that were compared, how many were those of the main model."""
        if not self._differed:
            return 0, 0
        return len(self._differed), int((~torch.stack(self._differed)).sum())

    def _predict(
        self, name: str, x: Tensor, sigma: Tensor, options: dict[str, Any] | None = None
    ) -> Tensor:
        # A main run cleans its additional models up, and another pack may start it again.
        comfy.make_ready_again(self)
        options = self._options if options is None else options
        with ExitStack() as weak:
            if self._swap is not None:
                weak.enter_context(self._state.in_place())
                weak.enter_context(self._swap.in_place())
            names = [name, *(["negative"] if "negative" in self.conds else [])]
            return comfy.predict(self, names, x, sigma, options)

    def _cannot_prepare(self, error: Exception) -> GuidanceError:
        """The error for a model that fails before it has predicted anything."""
        if self._shares_base and not self._has_own_prompt:
            return self._bad_model(error)
        return self._bad_prompt(error)

    def _cannot_predict(self, x: Tensor, sigma: Tensor, error: Exception) -> GuidanceError:
        """The error for a first prediction that fails: is the model at fault, or its prompt?"""
        if self._can_predict("positive", x, sigma):
            return self._bad_model(error)  # What has failed is a node on the model.
        if not self._shares_base:
            return self._bad_prompt(error)
        if not self._has_own_prompt:
            return self._bad_model(error)
        self.conds["of the main model"] = self._guider.conds["positive"]
        can_take_another = self._can_predict("of the main model", x, sigma)
        del self.conds["of the main model"]
        return self._bad_prompt(error) if can_take_another else self._bad_model(error)

    def _can_predict(self, name: str, x: Tensor, sigma: Tensor) -> bool:
        """Whether the model without anything that nodes have put on its passes can predict."""
        try:
            self._predict(name, x, sigma, {"transformer_options": {}})
        except Exception:
            return False
        return True

    def _bad_model(self, error: Exception) -> GuidanceError:
        return bad_input(
            self._node,
            self.model_input,
            f"{self.model_name}, which could not make a prediction, and not for its prompt "
            f"({_said(error)})",
            "a model that makes images on its own; look at the nodes that change it",
        )

    def _bad_prompt(self, error: Exception) -> GuidanceError:
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
            f"{came} ({shapes or 'no tensors'}), from which {self.model_name} could not make "
            f"a prediction ({_said(error)})",
            "a conditioning encoded by that model's own text encoder, with control nets made for "
            "it",
        )


def _said(error: Exception) -> str:
    """What an exception says of itself, in a line."""
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


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
