"""What a run may leave behind in models, and trouble in the middle of one that may do so, too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def digest(model: ModelPatcher) -> dict[str, Any]:
    """Every parameter and buffer with its address, and what ComfyUI has noted on each layer."""
    found: dict[str, Any] = {}
    for name, tensor in [*model.model.named_parameters(), *model.model.named_buffers()]:
        content = hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy()).hexdigest()
        found[name] = content, tensor.data_ptr(), tensor.dtype
    for name, module in model.model.named_modules():
        own = {k: v for k, v in vars(module).items() if "cast" in k or k.endswith("_function")}
        found[f"{name} "] = {
            k: list(map(id, v)) if isinstance(v, list) else v for k, v in own.items()
        }
    return found


def patcher_state(patcher: ModelPatcher) -> dict[str, Any]:
    """What a patcher knows, down to the identity of the functions and tensors in it."""

    def frozen(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: frozen(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [frozen(v) for v in value]
        if isinstance(value, str | int | float | None):
            return value
        return id(value)

    return {k: frozen(v) for k, v in vars(patcher).items()}


def state(*patchers: ModelPatcher) -> tuple[list[Any], list[Any]]:
    """All of it, for some patchers and the models that they share."""
    digests = [digest(patcher) for patcher in {id(p.model): p for p in patchers}.values()]
    return digests, [(patcher_state(p), p.model.current_patcher) for p in patchers]


@contextmanager
def trouble(
    models: Sequence[ModelPatcher], at_call: int, how: Callable[[], NoReturn]
) -> Iterator[list[Any]]:
    """Something happens at a pass that any of the models makes, and at all that come after it."""
    calls: list[Any] = []

    def passing(model: Any) -> Callable[..., Tensor]:
        def apply_model(*args: Any, **kwargs: Any) -> Tensor:
            calls.append(model)
            if len(calls) > at_call:
                how()
            return type(model).apply_model(model, *args, **kwargs)

        return apply_model

    unpatched = {id(patcher.model): patcher.model for patcher in models}.values()
    for model in unpatched:
        model.apply_model = passing(model)
    try:
        yield calls
    finally:
        for model in unpatched:
            del model.apply_model


def out_of_luck() -> NoReturn:
    """What can go wrong in any program."""
    raise ZeroDivisionError("out of luck")


def cancelled() -> NoReturn:
    """What ComfyUI's layers do once the artist has pressed Cancel; oldest releases' do not."""
    comfy.model_management.interrupt_current_processing()
    comfy.model_management.throw_exception_if_processing_interrupted()


TROUBLES = [out_of_luck, cancelled]
HEARD = (ZeroDivisionError, comfy.model_management.InterruptProcessingException)


def assert_trouble_leaves_nothing(
    sample: Callable[[], Tensor],
    patchers: Sequence[ModelPatcher],
    at_call: int,
    how: Callable[[], NoReturn],
    passes: int,
) -> Exception | None:
    """Let something happen in the middle of a run, after which all must be as it was.

    Args:
        sample: the run, which has been made before, so that its models are loaded.
        patchers: of all that it samples with.
        at_call: after how many passes.
        how: what happens.
        passes: of a run in which it comes too late.

    Returns:
        What the artist is told; None if it came too late.
    """
    told: Exception | None = None
    latent, before = sample(), state(*patchers)
    with trouble(patchers, at_call, how) as calls:
        try:
            sample()
        except HEARD as error:
            told = error
            # One more where a batch for all has failed.
            assert len(calls) - at_call in (1, 2)
        except ValueError as error:
            told = error
            # A first prediction beside the main one.
            assert "ZeroDivisionError: out of luck" in str(error)
        else:
            assert len(calls) == passes <= at_call
    assert state(*patchers) == before
    assert torch.equal(sample(), latent)
    assert state(*patchers) == before
    return told
