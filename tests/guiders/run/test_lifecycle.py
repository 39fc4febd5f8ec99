"""Loaded once, and left as found: after success, after any failure, after the artist's Cancel."""

from contextlib import nullcontext

import comfy.model_management
import comfy.model_patcher
import pytest
import torch

from support.rig import Run, add_weights, core_guider, small_card
from support.traces import HEARD, TROUBLES, assert_trouble_leaves_nothing, digest, state, trouble

STEPS = 3


KINDS = [
    "another checkpoint",
    "same base, by pointer",
    "same base, by weight function",
    "same base, LoRA on the main model",
    "same base, partly offloaded",
    "same weights, other prompt",
]


@pytest.fixture(params=KINDS)
def inputs(request, main, weak, negative, pack, monkeypatch):
    """What is connected to the guider for one kind of bad version; models of this test alone."""
    kind, main = request.param, main.clone()
    if "weight function" in kind:
        monkeypatch.setattr(pack.guiders.run.weight_swap, "can_swap", lambda patcher: False)
    with small_card(1_000_000) if "offloaded" in kind else nullcontext():
        if "checkpoint" in kind:
            yield {"model": main, "weak_model": weak.clone()}
        elif "prompt" in kind:
            yield {"model": main, "weak_positive": negative}
        elif "main model" in kind:
            yield {"model": add_weights(main), "weak_model": main}
        else:
            yield {"model": main, "weak_model": add_weights(main)}


@pytest.fixture
def guided(inputs, positive, negative, guide):
    """A guider of both pushes, its run, its models as loaded, and its latent."""
    guider = guide(positive=positive, negative=negative, **inputs)
    run = Run.of(inputs["model"], steps=STEPS)
    latent = run.sample(guider)
    models = [inputs[name] for name in ("model", "weak_model") if name in inputs]
    return guider, run, [*models, guider.model_patcher], latent


def test_run_leaves_everything_as_it_was(guided):
    guider, run, patchers, latent = guided
    before = state(*patchers)
    assert torch.equal(run.sample(guider), latent)
    assert state(*patchers) == before


@pytest.mark.parametrize("how", TROUBLES, ids=["exception", "interrupt"])
@pytest.mark.parametrize("at_call", range(2 * STEPS))
def test_trouble_at_any_pass_leaves_everything_as_it_was(how, at_call, guided):
    """Passes of the main model and of the weak one alike."""
    guider, run, patchers, _ = guided
    # With one batch for all there are half as many passes.
    told = assert_trouble_leaves_nothing(lambda: run.sample(guider), patchers, at_call, how, STEPS)
    # To the artist, a weak model that cannot even make its first pass.
    assert not isinstance(told, ValueError) or at_call == 1


@pytest.mark.parametrize("step", range(STEPS))
def test_cancel_leaves_everything_as_it_was(step, guided):
    guider, run, patchers, latent = guided
    before = state(*patchers)

    def callback(at, *_):
        # What ComfyUI's own progress hook does once the artist has pressed Cancel.
        if at == step:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run.sample(guider, callback)
    assert state(*patchers) == before
    assert torch.equal(run.sample(guider), latent)


def test_main_model_alone_gives_the_same_bits_afterwards(guided, positive, negative):
    guider, run, (main, *_), _ = guided
    core = core_guider(main, positive, negative, 3.0)
    before = run.sample(core)
    run.sample(guider)
    assert torch.equal(run.sample(core), before)


@pytest.fixture
def loads(monkeypatch):
    """Whose weights ComfyUI moves into place, in order."""
    seen = []
    load = comfy.model_patcher.ModelPatcher.load

    def counted(self, *args, **kwargs):
        seen.append(self.model)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", counted)
    comfy.model_management.unload_all_models()
    return seen


def test_two_checkpoints_are_loaded_once_each(loads, main, weak, positive, negative, guide):
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    run = Run.of(main)
    run.sample(guider)
    assert sorted(map(id, loads)) == sorted([id(main.model), id(weak.model)])
    managed = [patcher.model for patcher in comfy.model_management.loaded_models()]
    assert sorted(map(id, managed)) == sorted(map(id, loads))
    loads.clear()
    run.sample(guider)
    run.sample(guide(model=main, positive=positive, negative=negative, weak_model=weak, cfg=2.0))
    assert loads == []


def test_two_checkpoints_are_loaded_for_each_other(main, weak, positive, patch, requested):
    """ComfyUI must know of the pair, or it makes room for one by moving the other out."""
    Run.of(main).sample(core_guider(patch(main, weak_model=weak).clone(), positive))
    assert requested[-1] == {main.model, weak.model}


def test_one_base_is_loaded_once(loads, main, positive, negative, guide, pack):
    """And what differs, which ComfyUI holds as a model of its own."""
    weak = add_weights(main)
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    run = Run.of(main)
    run.sample(guider)
    own = pack.guiders.run.prepared_weights.prepared_weights(main, weak).patcher.model
    assert loads == [main.model, own]
    run.sample(guider)
    assert loads == [main.model, own]


def test_weights_left_in_place_by_another_workflow(main, node, positive, guide):
    """They say nothing about the model of this one: here they are those of the weak model."""
    again = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    guider = guide(model=main, positive=positive, weak_model=add_weights(again))
    run = Run.of(main)
    expected = run.sample(guider)
    run.sample(core_guider(add_weights(main), positive))
    assert torch.equal(run.sample(guider), expected)


def test_weak_model_off_is_not_loaded(loads, main, weak, positive, negative, guide):
    inputs = {"model": main, "positive": positive, "negative": negative, "weak_model": weak}
    Run.of(main).sample(guide(**inputs, weak_scale=1.0))
    assert loads == [main.model]


@pytest.mark.usefixtures("way")
def test_two_guiders_with_one_base_in_turn(main, positive, negative, guide):
    """Each the other's main model, and a third that only differs in its prompt."""
    lora, other = add_weights(main), add_weights(main, strength=-0.2, seed=5)
    prompts = {"positive": positive, "negative": negative}
    guiders = [
        guide(model=main, weak_model=lora, **prompts),
        guide(model=main, weak_model=other, weak_scale=2.2, **prompts),
        guide(model=main, weak_positive=negative, **prompts),
    ]
    run = Run.of(main)
    latents = [run.sample(guider) for guider in guiders]
    before = state(main, lora, other, *(g.model_patcher for g in guiders))
    for _ in range(2):
        for guider, latent in zip(guiders, latents, strict=True):
            assert torch.equal(run.sample(guider), latent)
            assert state(main, lora, other, *(g.model_patcher for g in guiders)) == before


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("how", [None, *TROUBLES], ids=["success", "exception", "interrupt"])
def test_switching_workflows_in_between(how, main, positive, negative, guide):
    """The weak model alone, as the main one, and guided the other way round."""
    lora = add_weights(main)
    prompts = {"positive": positive, "negative": negative}
    run = Run.of(main)
    guided = guide(model=main, weak_model=lora, **prompts)
    turned = guide(model=lora, weak_model=main, **prompts)
    alone, lora_alone = (core_guider(m, positive, negative, 3.0) for m in (main, lora))
    latents = {guider: run.sample(guider) for guider in (guided, lora_alone, turned, alone)}
    before = digest(main)
    for guider in (guided, turned, alone, turned, guided, lora_alone, guided, alone):
        if how is not None and guider in (guided, turned):
            with (
                trouble([main], 3, how),
                pytest.raises(HEARD),
            ):
                run.sample(guider)
        assert torch.equal(run.sample(guider), latents[guider])
        if guider in (guided, alone):
            assert digest(main) == before
