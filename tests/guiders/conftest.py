"""Models and conditionings for the tests of guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from support.rig import Conditioning

NodeCaller = Callable[..., object]


@pytest.fixture(scope="session", autouse=True)
def no_gradients():
    """ComfyUI executes nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def node(comfy_nodes) -> NodeCaller:
    """Call a node by its id, and get its first output."""
    # ComfyUI can be imported only once pytest is configured, which is after this module is read.
    from support.rig import call

    return lambda node_id, **inputs: call(comfy_nodes[node_id], **inputs)[0]


@pytest.fixture(scope="session")
def main(node) -> ModelPatcher:
    """The trained digits model."""
    return node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")


@pytest.fixture(scope="session")
def weak(node) -> ModelPatcher:
    """Its bad version: smaller, and trained for a fraction of the steps."""
    return node("UNETLoader", unet_name="digits_weak.safetensors", weight_dtype="default")


@pytest.fixture(scope="session")
def positive(node) -> Conditioning:
    """A digit."""
    return node("DigitConditioning", digit="3")


@pytest.fixture(scope="session")
def negative(node) -> Conditioning:
    """No digit in particular: the empty prompt of classifier-free guidance."""
    return node("DigitConditioning", digit="none")


@pytest.fixture(scope="session")
def guide(node) -> Callable[..., object]:
    """The guider node with scales that are no defaults."""
    return lambda **inputs: node("BadVersionGuider", **{"cfg": 3.0, "weak_scale": 1.7, **inputs})


@pytest.fixture(scope="session")
def patch(node) -> Callable[..., ModelPatcher]:
    """The patch node with a scale that is no default."""
    return lambda model, **inputs: node(
        "BadVersionPatch", model=model, **{"weak_scale": 1.7, **inputs}
    )


@pytest.fixture(params=["by pointer", "by weight function"])
def way(request, pack, monkeypatch) -> str:
    """How the tensors of a weak version get into the model that it shares with the main one."""
    if request.param == "by weight function":
        monkeypatch.setattr(pack.guiders.run.weight_swap, "can_swap", lambda patcher: False)
    return request.param


@pytest.fixture
def requested(monkeypatch) -> list[set[object]]:
    """The models that ComfyUI was asked to load together, one request after the other."""
    import comfy.model_management

    requests = []
    load = comfy.model_management.load_models_gpu

    def noted(models, *args, **kwargs):
        requests.append({patcher.model for patcher in models})
        return load(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", noted)
    return requests


@pytest.fixture
def controlled(main, comfy_nodes) -> Callable[..., tuple[Conditioning, Conditioning]]:
    """Put one control net for the digits model on a positive and a negative conditioning."""
    from support.rig import call
    from support.small_models import control_net

    def controlled(positive, negative, end_percent=1.0):
        hint = torch.rand(1, 8, 8, 16, generator=torch.Generator().manual_seed(4))
        return call(
            comfy_nodes["ControlNetApplyAdvanced"],
            positive=positive,
            negative=negative,
            control_net=control_net(main),
            image=hint,
            strength=0.01,
            start_percent=0.0,
            end_percent=end_percent,
        )

    return controlled


@pytest.fixture
def curve(node):
    """A schedule with a factor for each step of a run."""

    def curve(run, *factors, **inputs):
        levels = run.sigmas[: len(factors)].tolist()
        points = ", ".join(f"{at!r}: {f}" for at, f in zip(levels, factors, strict=True))
        return node(
            "BadVersionGuidanceCurve", points=points, unit="sigma", interpolation="steps", **inputs
        )

    return curve


@pytest.fixture
def only(node):
    """An interval around some steps of a run."""

    def only(run, *steps, **inputs):
        high, low = run.sigmas[steps[0]], run.sigmas[steps[-1] + 1]
        return node(
            "BadVersionGuidanceInterval", unit="sigma", start=float(high), end=float(low), **inputs
        )

    return only


@pytest.fixture
def dynamic(node):
    """A dynamic negative that differs between two samples after a single step."""
    settings = {
        "prior": 0.1,
        "temperature": 1.0,
        "per_dimension": True,
        "offset": 0.3,
        "floor": 1e-6,
        "ceiling": 0.8,
    }
    return lambda **changes: node("BadVersionDynamicNegative", **{**settings, **changes})


WEAK_PUSHES = ["another checkpoint", "same base", "prompt alone"]


@pytest.fixture(params=WEAK_PUSHES)
def weak_push(request, main, weak, node):
    """Inputs for a weak push, and the model and prompt of its reference; None is the run's own."""
    from support.rig import add_weights

    one, lora = node("DigitConditioning", digit="1"), add_weights(main)
    return {
        "another checkpoint": ({"weak_model": weak}, weak, None),
        "same base": ({"weak_model": lora}, lora, None),
        "prompt alone": ({"weak_positive": one}, main, one),
    }[request.param]


@pytest.fixture
def windowed(node, comfy_nodes) -> Callable[[ModelPatcher], ModelPatcher]:
    """A video model that is shown no more than four frames at once."""
    from support.rig import untouched

    # Later releases have more widgets.
    windows = untouched(comfy_nodes["ContextWindowsManual"]) | {
        "context_length": 4,
        "context_overlap": 1,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 2,
    }
    return lambda model: node("ContextWindowsManual", model=model, **windows)
