"""Every kind of neighbour beside every kind of bad version, wherever an artist may put it.

Each cell is the closed form, or a clear error that is listed here; nothing is left on models, and
the same guider gives the same bits twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import comfy.model_management
import comfy.sd
import pytest
import torch

from support import neighbours
from support.rig import Run, add_weights, alone, close, core_guider, record, unguided
from support.traces import state

CFG, WEAK_SCALE, STEPS = 3.0, 1.7, 3


@dataclass(frozen=True)
class Kind:
    """A kind of neighbour.

    Attributes:
        of: a clone of a model with this neighbour on it.
        mixes: what is predicted from a prompt depends on whether the negative one is in the pass.
        on_weak: so it does in a pass of the weak model.
        needs: what ComfyUI must have for it.
    """

    of: Callable
    mixes: bool = False
    on_weak: bool = False
    needs: str | None = None


KINDS = {
    "step cache by index": Kind(partial(neighbours.step_cache, by_index=True)),
    "step cache for all": Kind(partial(neighbours.step_cache, by_index=False)),
    "step cache of its own": Kind(neighbours.shared_step_cache, mixes=True),
    "block cache": Kind(neighbours.block_cache),
    "entries by index": Kind(neighbours.two_entries),
    "mixed prompts": Kind(neighbours.mixing_prompts, mixes=True, on_weak=True),
    "changed predictions": Kind(neighbours.writing_into_predictions),
    "injected LoRA": Kind(neighbours.injecting, needs="load_bypass_lora_for_models"),
}

# Where the neighbour is. What is made of the model itself has it wherever the model has it.
PLACES = {
    "other checkpoint": ("on main", "on both", "behind"),
    "same base": ("on main", "on both", "before", "behind"),
    "worse pass": ("on main", "on both", "before", "behind"),
    "prompt alone": ("before", "behind"),
    "auto": ("before", "behind"),
    "another push": ("on main", "before"),
}

# A cache that no one else can reach has, for a weak model made of what it is on, the main model's
# result and nothing else: there is no push, and the run says so.
CANNOT = {
    ("step cache of its own", bad, "before"): "changes nothing"
    for bad in ("same base", "worse pass", "prompt alone", "auto", "another push")
}

CELLS = [
    pytest.param(kind, bad, place, by, id=f"{kind}-{bad}-{place}-{by}")
    for kind in KINDS
    for bad, places in PLACES.items()
    for place in places
    for by in ("guider", "patch")
    # Behind the guider there is only the sampler.
    if (place, by) != ("behind", "guider")
]


@pytest.fixture
def one(node):
    return node("DigitConditioning", digit="1")


@pytest.fixture
def weaken(weak, node):
    """The bad version of a model, as a model; none for what the nodes make of the model itself."""
    skip = partial(node, "BadVersionWeakenBySkippingBlocks", blocks="auto")
    return {
        "other checkpoint": lambda model: weak,
        "same base": add_weights,
        "worse pass": lambda model: skip(model=model),
        "another push": add_weights,
    }


@dataclass
class Cell:
    """What an artist has connected, and what its closed form is made of."""

    guider: object
    recording: object
    models: list
    main: object
    weak: object
    weak_prompt: object
    negative: object
    weak_mixes: bool


@pytest.fixture
def cell(main, weaken, node, guide, patch, positive, negative, one):
    def cell(kind, bad, place, by, base=main):
        of = KINDS[kind].of if kind in KINDS else (lambda model: model)
        recorded, recording = record(base)
        own = bad in weaken
        inputs = {"weak_scale": WEAK_SCALE}
        model = recorded if place == "behind" else of(recorded)
        if own:
            made = weaken[bad](model if place == "before" else base)
            inputs["weak_model"] = of(made) if place == "on both" else made
            if bad == "another push":
                more = node("BadVersionAnotherPush", scale=WEAK_SCALE, weak_model=made)
                inputs = {"weak_scale": 1.0, "more_pushes": more}
        elif bad == "prompt alone":
            inputs["weak_positive"] = one
        # Without a negative prompt the guider lets the model weaken itself.
        against = None if (bad, by) == ("auto", "guider") else negative
        if by == "guider":
            guider = guide(model=model, positive=positive, negative=against, cfg=CFG, **inputs)
        else:
            model = patch(model, **inputs)
            if place == "behind":
                model = of(model)
            guider = core_guider(model, positive, negative, CFG)

        # The same once more, with neighbours that know nothing of the run above.
        fresh = of(base)
        if own:
            weak = weaken[bad](of(base) if place == "before" else base)
            weak = of(weak) if place == "on both" else weak
        else:
            weak = base if place == "behind" else of(base)
            if bad == "auto":
                weak = node("BadVersionWeakenBySkippingBlocks", model=weak, blocks="auto")
        return Cell(
            guider,
            recording,
            [base, model, *([made] if own else [])],
            fresh,
            weak,
            one if bad == "prompt alone" else positive,
            against,
            kind in KINDS and KINDS[kind].on_weak and place in ("on both", "before"),
        )

    return cell


def predicted(run, recording, model, prompt, negative, mixes):
    """What a model predicts from a prompt, in a pass with the negative one if it mixes them."""
    if not mixes or negative is None:
        return alone(run, recording, model, prompt)[0]
    both = unguided(model)
    both.model_options["disable_cfg1_optimization"] = True
    return run.replay(core_guider(both, prompt, negative, 1.0), recording)


def assert_closed_form(run, cell, positive, mixes):
    against = (positive, 1.0) if cell.negative is None else (cell.negative, CFG)
    recording = cell.recording
    guided = run.replay(core_guider(cell.main, positive, *against), recording)
    C = predicted(run, recording, cell.main, positive, cell.negative, mixes)
    W = predicted(run, recording, cell.weak, cell.weak_prompt, cell.negative, cell.weak_mixes)
    assert len(guided) == len(C) == len(W) == len(recording) == STEPS
    for i, (g, c, w) in enumerate(zip(guided, C, W, strict=True)):
        push = (WEAK_SCALE - 1) * (c - w)
        assert push.norm() > 1e-3 * g.norm(), "the push would not be seen"
        assert close(recording.denoised[i], g + push), f"model call {i} is off"


def assert_same_again(run, cell, latent):
    """The same guider gives the same bits once more; what it predicted this time stays recorded."""
    recording = cell.recording
    del recording.x[:], recording.sigma[:], recording.denoised[:]
    assert torch.equal(run.sample(cell.guider), latent)


@pytest.mark.parametrize(("kind", "bad", "place", "by"), CELLS)
def test_neighbour(kind, bad, place, by, cell, main, positive):
    needs = KINDS[kind].needs
    if needs is not None and not hasattr(comfy.sd, needs):
        pytest.skip(f"this ComfyUI has no {needs}")
    run = Run.of(main, steps=STEPS)
    asked = cell(kind, bad, place, by)
    error = CANNOT.get((kind, bad, place))
    if error is not None:
        with pytest.raises(ValueError, match=error):
            run.sample(asked.guider)
        return
    latent = run.sample(asked.guider)
    traces = state(*asked.models)
    assert_same_again(run, asked, latent)
    assert state(*asked.models) == traces
    assert_closed_form(run, asked, positive, KINDS[kind].mixes)


@pytest.fixture(params=[neighbours.SelfPatchedPatcher, neighbours.InPlacePatcher])
def own_weights(request, node):
    """A model from another pack's loader, with a LoRA on it in that pack's way."""
    fresh = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    yield add_weights(neighbours.as_patcher(request.param, fresh), seed=8)
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("by", ["guider", "patch"])
@pytest.mark.parametrize("bad", PLACES)
def test_loader_of_another_pack(bad, by, own_weights, cell, positive):
    run = Run.of(own_weights, steps=STEPS)
    asked = cell("none", bad, "before", by, base=own_weights)
    assert_same_again(run, asked, run.sample(asked.guider))
    assert_closed_form(run, asked, positive, mixes=False)
