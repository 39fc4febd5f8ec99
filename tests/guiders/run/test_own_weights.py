"""A weak model on a base whose weights another pack patches in its own way."""

import importlib

import comfy.model_management
import comfy.utils
import pytest
import torch

from support.neighbours import InPlacePatcher, SelfPatched, SelfPatchedPatcher, as_patcher
from support.rig import Pushes, Run, add_weights, core_guider, record, small_card
from support.traces import HEARD, TROUBLES, digest, trouble

WEAK_SCALE, CFG = 1.7, 3.0
NODE = "Some Weaken Node"


def fresh(node):
    return node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")


@pytest.fixture(params=[SelfPatchedPatcher, InPlacePatcher], ids=["on the weight", "in place"])
def base(request, node):
    """A fresh model whose patcher is another pack's."""
    yield as_patcher(request.param, fresh(node))
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def weights(pack):
    return importlib.import_module(".guiders.weaken.weights", pack.__name__)


def matrices(model):
    return [key for key, w in model.model.named_parameters() if "joint" in key and w.ndim >= 2]


PAIRS = {
    "LoRA on the weak": lambda w, base: (base, add_weights(base)),
    "LoRA off": lambda w, base: (
        add_weights(base),
        w.without_loras(NODE, add_weights(base), keep=0.0),
    ),
    "LoRA down": lambda w, base: (
        lora := add_weights(base),
        w.without_loras(NODE, lora, keep=0.4),
    ),
    "low rank": lambda w, base: (
        base,
        w.with_low_rank(NODE, base, keep=0.3, keys=matrices(base)[:6]),
    ),
    "noise": lambda w, base: (
        base,
        w.with_noise(NODE, base, amount=0.2, seed=3, keys=matrices(base)),
    ),
    "bits": lambda w, base: (
        lora := add_weights(base),
        w.with_fewer_bits(NODE, lora, bits=3, keys=matrices(lora)),
    ),
    "against its base": lambda w, base: (
        lora := add_weights(base),
        w.against_base(NODE, lora, base, amount=0.7),
    ),
}


@pytest.fixture(params=PAIRS)
def pair(request, base, weights):
    return PAIRS[request.param](weights, base)


@pytest.fixture
def assert_closed_form(positive, negative, guide):
    def assert_closed_form(main, weak, **inputs):
        run = Run.of(main, steps=2)
        recorded, recording = record(main)
        prompts = {"positive": positive, "negative": negative}
        run.sample(guide(model=recorded, weak_model=weak, **prompts, **inputs))
        Pushes(
            main, positive, negative, CFG, weak, WEAK_SCALE, inputs.get("weak_positive")
        ).assert_hold(run, recording)

    return assert_closed_form


@pytest.mark.usefixtures("way")
def test_closed_form(pair, assert_closed_form):
    main, weak = pair
    assert_closed_form(main, weak)
    assert_closed_form(weak, main)
    assert_closed_form(main, weak)


def test_with_a_weak_prompt(pair, assert_closed_form, node):
    assert_closed_form(*pair, weak_positive=node("DigitConditioning", digit="1"))


@pytest.mark.parametrize("room", [4_000_000, 200_000])
def test_partly_offloaded(room, base, weights, assert_closed_form):
    if isinstance(base, InPlacePatcher):
        pytest.skip("it does not offload what it has patched")
    with small_card(room):
        assert_closed_form(add_weights(base), base)
        assert_closed_form(base, add_weights(base))


def test_nothing_is_left(pair, positive, negative, guide):
    main, weak = pair
    run = Run.of(main, steps=2)
    alone = run.sample(core_guider(main, positive, negative, CFG))
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    guided = run.sample(guider)
    before, carried = digest(main), carried_by(main)
    assert not torch.equal(guided, alone)
    assert torch.equal(run.sample(guider), guided)
    assert digest(main) == before
    for how in TROUBLES:
        for call in (1, 3):
            # The weak model's first pass is told to the artist.
            with trouble([main], call, how), pytest.raises((*HEARD, ValueError)):
                run.sample(guider)
            assert digest(main) == before
            assert carried_by(main) == carried
    assert torch.equal(run.sample(core_guider(main, positive, negative, CFG)), alone)


def carried_by(model):
    """The patches on each weight."""
    return {
        name: [(list(map(id, patches)), key) for patches, key in weight.patches]
        for name, weight in model.model.named_parameters()
        if isinstance(weight, SelfPatched)
    }


def test_weights_that_carry_their_patches_need_no_memory(node, positive, guide, pack):
    base = as_patcher(SelfPatchedPatcher, fresh(node))
    weak = add_weights(base)
    Run.of(base).sample(guide(model=base, positive=positive, weak_model=weak))
    own = pack.guiders.run.prepared_weights.prepared_weights(base, weak)
    assert own.carried.keys() == weak.patches.keys()
    assert own.tensors == {}
    comfy.model_management.unload_all_models()


def test_base_that_a_pack_patches_in_place(way, node, assert_closed_form):
    """In between, and once for good: what is kept must follow."""
    base = fresh(node)
    lora = add_weights(base)
    in_place = as_patcher(InPlacePatcher, base)
    other = add_weights(in_place, strength=-0.2, seed=5)
    # Each pair finds what the other way round, and the other pack, have left.
    for main, weak in [(lora, base), (other, in_place), (lora, base), (base, lora)]:
        assert_closed_form(main, weak)
    comfy.model_management.unload_all_models()
    for key in lora.patches:
        comfy.utils.get_attr(base.model, key).mul_(0.8)
    for main, weak in [(base, lora), (lora, base)]:
        assert_closed_form(main, weak)
    comfy.model_management.unload_all_models()


def test_main_weights_changed_in_place_behind_a_run(way, node, positive, guide, assert_closed_form):
    """What was equal, and so was not kept, differs now."""
    base = fresh(node)
    in_place = as_patcher(InPlacePatcher, base)
    lora, weak = add_weights(in_place), add_weights(base)
    with pytest.raises(ValueError, match="changes nothing"):
        Run.of(base).sample(guide(model=lora, positive=positive, weak_model=weak))
    comfy.model_management.unload_all_models()
    assert_closed_form(base, weak)
    comfy.model_management.unload_all_models()
