"""Loaded once, and left as found: after success, after any failure, after the artist's Cancel."""

import gc
import hashlib
import weakref

import comfy.model_management
import comfy.model_patcher
import pytest
import torch

from rig import Run, add_weights, core_guider

STEPS = 3


@pytest.fixture(params=["another checkpoint", "same base"])
def pair(request, main, weak):
    """A main model and a weak one, neither of them used by another test."""
    return main.clone(), (weak.clone() if "checkpoint" in request.param else add_weights(main))


def digest(model):
    """Every parameter and buffer, with its address."""
    found = {}
    for name, tensor in [*model.model.named_parameters(), *model.model.named_buffers()]:
        content = hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy()).hexdigest()
        found[name] = content, tensor.data_ptr(), tensor.dtype
    return found


def patcher_state(patcher):
    """What a patcher knows, down to the identity of the functions and tensors in it."""

    def frozen(value):
        if isinstance(value, dict):
            return {k: frozen(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [frozen(v) for v in value]
        if isinstance(value, str | int | float | None):
            return value
        return id(value)

    return {k: frozen(v) for k, v in vars(patcher).items()}


def state(*patchers):
    return [(digest(p), patcher_state(p), p.model.current_patcher) for p in patchers]


@pytest.fixture
def guided(pair, positive, negative, guide):
    """A guider of both legs, its run, its models as loaded, and its latent."""
    main, weak = pair
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    run = Run.of(main, steps=STEPS)
    latent = run.sample(guider)
    patchers = [main, weak, guider.model_patcher]
    return guider, run, patchers, latent


def test_run_leaves_everything_as_it_was(guided):
    guider, run, patchers, latent = guided
    before = state(*patchers)
    assert torch.equal(run.sample(guider), latent)
    assert state(*patchers) == before


@pytest.mark.parametrize("fails", ["main", "weak"])
@pytest.mark.parametrize("at_call", range(STEPS))
def test_exception_at_a_model_call_leaves_everything_as_it_was(fails, at_call, guided):
    guider, run, patchers, latent = guided
    main, weak, _ = patchers
    before = state(*patchers)
    shared = main.model is weak.model
    calls = []

    def apply_model(*args, **kwargs):
        # With one base for both, the weak model speaks first, then main and weak take turns:
        # W C | W C | ..., but from the second step on C W, for it is asked behind the main model.
        calls.append(1)
        index = len(calls) - 1
        if shared:
            order = ["weak", "main"] + ["main", "weak"] * STEPS
            mine = [i for i, who in enumerate(order) if who == fails]
            hit = index == mine[at_call]
        else:
            hit = index == at_call
        if hit:
            raise ZeroDivisionError("out of luck")
        return type(model).apply_model(model, *args, **kwargs)

    model = (main if fails == "main" else weak).model
    model.apply_model = apply_model
    try:
        with pytest.raises((ZeroDivisionError, ValueError)):
            run.sample(guider)
    finally:
        del model.apply_model
    assert state(*patchers) == before
    assert torch.equal(run.sample(guider), latent)
    assert state(*patchers) == before


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
    guider, run, (main, _, _), _ = guided
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


def test_two_checkpoints_are_loaded_for_each_other(main, weak, positive, patch, monkeypatch):
    """ComfyUI must know of the pair, or it makes room for one by moving the other out."""
    requested = []
    load = comfy.model_management.load_models_gpu

    def noted(models, *args, **kwargs):
        requested.append({patcher.model for patcher in models})
        return load(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", noted)
    Run.of(main).sample(core_guider(patch(main, weak_model=weak).clone(), positive))
    assert requested[-1] == {main.model, weak.model}


def test_one_base_is_loaded_once(loads, main, positive, negative, guide):
    guider = guide(model=main, positive=positive, negative=negative, weak_model=add_weights(main))
    run = Run.of(main)
    run.sample(guider)
    assert loads == [main.model]
    run.sample(guider)
    assert loads == [main.model]


def test_weak_model_off_is_not_loaded(loads, main, weak, positive, negative, guide):
    inputs = {"model": main, "positive": positive, "negative": negative, "weak_model": weak}
    Run.of(main).sample(guide(**inputs, weak_scale=1.0))
    assert loads == [main.model]


def test_nothing_outlives_the_run(main, positive, negative, guide, pack, monkeypatch):
    """The swapped tensors are as large as what differs; they must not wait for the collector."""
    weak_run = pack.guiders.weak_run
    made = []

    class Watched(weak_run.WeightSwap):
        def __init__(self, *args):
            super().__init__(*args)
            made.extend(weakref.ref(t) for t in self._tensors.values())

    monkeypatch.setattr(weak_run, "WeightSwap", Watched)
    guider = guide(model=main, positive=positive, negative=negative, weak_model=add_weights(main))
    gc.disable()
    try:
        Run.of(main).sample(guider)
        assert made
        assert [ref() for ref in made if ref() is not None] == []
    finally:
        gc.enable()
