"""A weak model that shares its weights with the main one, in every way ComfyUI may hold them."""

import gc
import json
import weakref

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import pytest
import torch
from comfy.patcher_extension import PatcherInjection

from bench.memory import tensor_memory
from support.rig import Pushes, Run, add_weights, close, core_guider, record, small_card

WEAK_SCALE, CFG = 1.7, 3.0


@pytest.fixture
def assert_closed_form(positive, negative, guide):
    """Guide ``main`` away from ``weak``, and compare with the two run apart."""

    def assert_closed_form(main, weak, run=None):
        run = run or Run.of(main)
        recorded, recording = record(main)
        guider = guide(model=recorded, positive=positive, negative=negative, weak_model=weak)
        latent = run.sample(guider)
        Pushes(main, positive, negative, CFG, weak, WEAK_SCALE).assert_hold(run, recording)
        return latent

    return assert_closed_form


@pytest.fixture(params=["LoRA on the weak", "LoRA on the main", "different LoRAs"])
def pair(request, main):
    """Main and weak model on one base."""
    lora = add_weights(main)
    return {
        "LoRA on the weak": (main, lora),
        "LoRA on the main": (lora, main),
        "different LoRAs": (lora, add_weights(main, strength=-0.2)),
    }[request.param]


def test_equals_a_second_checkpoint(pair, way, main, node, positive, negative, guide):
    """The weights of the weak version, loaded from elsewhere, give the same picture."""
    guided, weak = pair
    other = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    if weak.patches:
        own = {key: [] for key in weak.patches}
        other.patches = own | {key: list(patches) for key, patches in weak.patches.items()}
    run = Run.of(main)
    inputs = {"model": guided, "positive": positive, "negative": negative}
    by_swap = run.sample(guide(**inputs, weak_model=weak))
    assert close(by_swap, run.sample(guide(**inputs, weak_model=other)), 1e-6)


@pytest.mark.parametrize("room", [4_000_000, 200_000])
def test_partly_offloaded(room, pair, way, assert_closed_form, pack):
    """ComfyUI then patches the offloaded weights on the fly, at each use.

    With the more room the weak version's own tensors are all loaded, with the less they are not.
    """
    main, weak = pair
    with small_card(room):
        assert_closed_form(main, weak)
        assert main.model.model_lowvram
        own = pack.guiders.run.prepared_weights.prepared_weights(main, weak).patcher
        assert own.model.model_lowvram == (room < own.model_size())


@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_weights_in_8_bits(dtype, way, node, assert_closed_form):
    """Patched weights are rounded back to 8 bits; the swapped ones as ComfyUI rounds them."""
    base = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype=dtype)
    weights = base.model.diffusion_model.joint_blocks[0].x_block.attn.qkv.weight
    assert weights.dtype.itemsize == 1
    assert_closed_form(add_weights(base), base)


def test_weight_functions_of_others_stay(way, main, assert_closed_form):
    """Some packs put one on a layer, through which each of its weights goes at each use."""
    key = "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
    wrapped = main.clone()
    wrapped.add_weight_wrapper(key, lambda weight: 0.9 * weight)
    assert_closed_form(wrapped, add_weights(wrapped))
    comfy.model_management.unload_all_models()


def test_patcher_that_updates_weights_in_place(node, assert_closed_form):
    """An old setting of ComfyUI's; then the backup is a copy, and the address stays."""
    base = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    base.weight_inplace_update = True
    lora = add_weights(base)
    assert_closed_form(base, lora)
    assert_closed_form(lora, base)
    assert_closed_form(lora, add_weights(base, strength=-0.2))
    assert_closed_form(base, lora)


def test_both_ways_give_the_same_bits(pair, positive, negative, guide, pack, monkeypatch):
    main, weak = pair
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    run = Run.of(main)
    by_pointer = run.sample(guider)
    monkeypatch.setattr(pack.guiders.run.weight_swap, "can_swap", lambda patcher: False)
    assert torch.equal(run.sample(guider), by_pointer)


def test_dynamic_loading_is_asked_of_the_patcher(main, assert_closed_form, pack, monkeypatch):
    """Newer releases of ComfyUI: the layers' own weights are not what they compute with."""
    same_base = pack.guiders.run.weight_swap
    assert same_base.can_swap(main)
    patcher = comfy.model_patcher.ModelPatcher
    monkeypatch.setattr(patcher, "is_dynamic", lambda self: True, raising=False)
    monkeypatch.setattr(same_base.WeightSwap, "_swap", None)
    assert not same_base.can_swap(main)
    assert_closed_form(main, add_weights(main))


@pytest.mark.skipif(
    not hasattr(comfy.ops, "mixed_precision_ops"), reason="this ComfyUI has no quantised tensors"
)
def test_quantised_weights(way, node, positive, assert_closed_form):
    """A weight that is no plain tensor: 8 bits with a scale of its own."""
    from comfy.quant_ops import QuantizedTensor

    base = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    attention = base.model.diffusion_model.joint_blocks[0].x_block.attn
    plain = attention.qkv
    scale = plain.weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
    quantised = {"format": "float8_e4m3fn"}
    layers = comfy.ops.mixed_precision_ops(
        {"qkv": quantised}, torch.float32, full_precision_mm=True
    )
    holder = torch.nn.Module()
    holder.qkv = layers.Linear(plain.in_features, plain.out_features)
    holder.load_state_dict(
        {
            "qkv.weight": (plain.weight / scale).to(torch.float8_e4m3fn),
            "qkv.weight_scale": scale,
            "qkv.bias": plain.bias,
            # Releases after 0.3.75 find the format of a layer beside its weight.
            "qkv.comfy_quant": torch.frombuffer(
                bytearray(json.dumps(quantised), "utf-8"), dtype=torch.uint8
            ),
        },
        strict=False,
    )
    attention.qkv = holder.qkv
    assert isinstance(attention.qkv.weight, QuantizedTensor)

    def content():
        return attention.qkv.weight._qdata.view(torch.uint8)

    before = content()
    # Some releases copy such a weight when they take a LoRA off it, whoever put it on.
    Run.of(base).sample(core_guider(add_weights(base), positive))
    comfy.model_management.unload_all_models()
    is_copied = content().data_ptr() != before.data_ptr()
    seen = []

    def looked_at(weight):
        seen.append(type(weight))
        return weight

    # Weight functions get plain numbers.
    base.add_weight_wrapper("diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", looked_at)
    assert_closed_form(base, add_weights(base))
    assert_closed_form(add_weights(base), base)
    comfy.model_management.unload_all_models()
    assert torch.equal(content(), before)
    assert is_copied or content().data_ptr() == before.data_ptr()
    assert set(seen) == {torch.Tensor}


def test_tensor_that_stayed_offloaded(main, pack):
    """A loaded layer fetches it for the pass; what is no layer of ComfyUI's gets a copy."""
    weak = add_weights(main)
    attention = main.model.diffusion_model.joint_blocks[0].x_block.attn
    table = "diffusion_model.pos_embed_of_a_test"
    main.model.diffusion_model.pos_embed_of_a_test = torch.nn.Parameter(torch.zeros(3))
    weak.add_patches({table: ("diff", (torch.ones(3),))})
    comfy.model_management.load_models_gpu([main])
    # Left on the layer by other runs; a fresh one has it on its class alone.
    vars(attention.qkv).pop("comfy_cast_weights", None)
    before = dict(vars(attention.qkv))
    try:
        runner = pack.guiders.run.weight_swap.run_patcher(main, weak)
        swap = pack.guiders.run.weight_swap.WeightSwap(main, weak, runner)
        # There is only one real device here.
        runner.load_device = torch.device("meta")
        with swap.in_place():
            assert attention.qkv.comfy_cast_weights is True
            assert attention.qkv.weight.device.type == "cpu"
            assert main.model.diffusion_model.pos_embed_of_a_test.device.type == "meta"
        assert vars(attention.qkv) == before
        assert main.model.diffusion_model.pos_embed_of_a_test.device.type == "cpu"
    finally:
        del main.model.diffusion_model.pos_embed_of_a_test


def test_another_noise_schedule_on_the_weak_model(main, node, assert_closed_form):
    """An object patch: this one tells the network another time at the same sigma."""
    other = node("ModelSamplingAuraFlow", model=main, shift=3.0)
    assert_closed_form(main, other)
    assert_closed_form(other, add_weights(main), Run.of(other))


def test_patched_attention_on_the_weak_model(main, assert_closed_form):
    """Nothing but other transformer options: no weight is touched."""
    weak = main.clone()
    weak.set_model_patch(lambda q, k, v, *_: {"q": q, "k": k, "v": 0.5 * v}, "attn1_patch")
    weak.set_model_unet_function_wrapper(
        lambda apply_model, args: 0.9 * apply_model(args["input"], args["timestep"], **args["c"])
    )
    assert_closed_form(main, weak)


def test_injections_of_either_model(main, assert_closed_form, positive, guide):
    """Some packs do not patch weights but change modules while their model is in use."""

    def scaling(factor):
        block = main.model.diffusion_model.joint_blocks[1]

        def inject(patcher):
            forward = type(block).forward
            block.forward = lambda *args, **kwargs: tuple(
                None if t is None else factor * t for t in forward(block, *args, **kwargs)
            )

        def eject(patcher):
            block.__dict__.pop("forward", None)

        return PatcherInjection(inject=inject, eject=eject)

    stronger, weaker = main.clone(), add_weights(main)
    stronger.set_injections("test", [scaling(1.05)])
    weaker.set_injections("test", [scaling(0.9)])
    assert_closed_form(stronger, weaker)
    assert_closed_form(main, weaker)
    assert_closed_form(stronger, main)
    # ComfyUI leaves the main model injected behind a run.
    run = Run.of(main)
    guider = guide(model=stronger, positive=positive, weak_model=weaker)
    assert torch.equal(run.sample(guider), run.sample(guider))


def test_injection_that_hides_a_patched_layer(main, assert_closed_form):
    """While it is in place, no weight is where the patches say it is."""
    attention = main.model.diffusion_model.joint_blocks[0].x_block.attn

    class Wrapped(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return 0.9 * self.layer(x)

    def inject(patcher):
        attention.qkv = Wrapped(attention.qkv)

    def eject(patcher):
        # Clones of an injected model eject it once more.
        attention.qkv = getattr(attention.qkv, "layer", attention.qkv)

    wrapped = main.clone()
    wrapped.set_injections("test", [PatcherInjection(inject=inject, eject=eject)])
    assert_closed_form(main, add_weights(wrapped))
    assert_closed_form(wrapped, add_weights(main))
    comfy.model_management.unload_all_models()


def test_a_fresh_pair_that_was_never_loaded(node, assert_closed_form):
    base = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    assert_closed_form(base, add_weights(base))


def test_switching_between_workflows(main, positive, negative, guide):
    """The same base, guided, then alone, then with its LoRA as the main model, then guided."""
    lora = add_weights(main)
    run = Run.of(main)
    inputs = {"positive": positive, "negative": negative}
    guided = guide(model=main, weak_model=lora, **inputs)
    first = run.sample(guided)
    alone = run.sample(core_guider(main, positive, negative, CFG))
    with_lora = run.sample(core_guider(lora, positive, negative, CFG))
    assert torch.equal(run.sample(guided), first)
    assert torch.equal(run.sample(core_guider(lora, positive, negative, CFG)), with_lora)
    assert torch.equal(run.sample(core_guider(main, positive, negative, CFG)), alone)


@pytest.fixture
def made(pack, monkeypatch):
    """Keys of the weak tensors that were made, in order."""
    patching = pack.guiders.comfy.Patching
    keys, make = [], patching.make

    def noted(self, key):
        keys.append(key)
        return make(self, key)

    monkeypatch.setattr(patching, "make", noted)
    return keys


@pytest.fixture
def patchings(monkeypatch):
    """Keys of the weights that ComfyUI was asked to patch, by whomever."""
    keys = []
    patch_weight = comfy.model_patcher.ModelPatcher.patch_weight_to_device

    def noted(self, key, *args, **kwargs):
        keys.append(key)
        return patch_weight(self, key, *args, **kwargs)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "patch_weight_to_device", noted)
    return keys


@pytest.fixture
def own(pack):
    """What is kept for a weak model."""
    return lambda weak: pack.guiders.run.prepared_weights.prepared_weights(weak, weak)


def test_made_once(pair, positive, negative, guide, patchings):
    main, weak = pair
    inputs = {"model": main, "positive": positive, "negative": negative, "weak_model": weak}
    guider = guide(**inputs)
    run = Run.of(main)
    first = run.sample(guider)
    assert patchings
    patchings.clear()
    assert torch.equal(run.sample(guider), first)
    # The artist edits the prompt, the scale or the seed: the guider is another, the models are not.
    edited = guide(**{**inputs, "positive": negative, "negative": positive}, weak_scale=2.5)
    run.with_(seed=8).sample(edited)
    assert patchings == []


def test_made_anew_for_another_weak_model(main, positive, guide, made):
    run = Run.of(main)
    weak = add_weights(main)
    first = run.sample(guide(model=main, positive=positive, weak_model=weak))
    keys = [*made]
    assert sorted(keys) == sorted(weak.patches)
    made.clear()
    stronger = add_weights(main, strength=0.6)
    second = run.sample(guide(model=main, positive=positive, weak_model=stronger))
    assert made == keys
    assert not torch.equal(first, second)


def test_only_what_is_missing_is_made(main, positive, patch, made, own):
    """A LoRA is put on the main model behind the patch, and taken off again."""
    weak = add_weights(main)
    patched = patch(main, weak_model=weak)
    run = Run.of(main)
    alone = run.sample(core_guider(patched, positive))
    key = "diffusion_model.final_layer.linear.weight"
    shape = comfy.utils.get_attr(main.model, key).shape
    made.clear()
    with_lora = patched.clone()
    with_lora.add_patches({key: ("diff", (torch.full(shape, 0.01),))})
    different = run.sample(core_guider(with_lora, positive))
    assert not torch.equal(different, alone)
    assert made == [key]
    assert key in own(weak).tensors
    # To ComfyUI it is one more tensor to load, and later one less.
    tensors = own(weak).patcher
    with_key = tensors.model_size()
    assert tensors.loaded_size() == with_key == bytes_of(own(weak).tensors.values())
    made.clear()
    assert torch.equal(run.sample(core_guider(patched, positive)), alone)
    assert made == []
    assert key not in own(weak).tensors
    assert tensors.loaded_size() == tensors.model_size() < with_key


def test_weight_that_was_equal_until_the_main_model_changed(main, positive, patch, own):
    weak = add_weights(main)
    key = "diffusion_model.final_layer.linear.weight"
    lora = {key: ("diff", (torch.full_like(comfy.utils.get_attr(main.model, key), 0.01),))}
    weak.add_patches(lora, 0.0)
    patched = patch(main, weak_model=weak)
    run = Run.of(main)
    run.sample(core_guider(patched, positive))
    assert key not in own(weak).tensors
    patched.add_patches(lora)
    run.sample(core_guider(patched, positive))
    assert key in own(weak).tensors


def test_patches_on_buffers_are_none(main, positive, patch, own):
    """ComfyUI never applies them."""
    network = main.model.diffusion_model
    network.register_buffer("table_of_a_test", torch.zeros(3))
    try:
        weak = add_weights(main)
        weak.add_patches({"diffusion_model.table_of_a_test": ("diff", (torch.ones(3),))})
        buffer = network.table_of_a_test
        Run.of(main).sample(core_guider(patch(main, weak_model=weak), positive))
        assert len(own(weak).tensors) == len(weak.patches) - 1
        assert network.table_of_a_test is buffer
    finally:
        del network.table_of_a_test


def test_replaced_layer_gets_its_tensor_anew(node, positive, guide, made):
    base = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    weak = add_weights(base)
    guider = guide(model=base, positive=positive, weak_model=weak)
    run = Run.of(base)
    first = run.sample(guider)
    attention = base.model.diffusion_model.joint_blocks[0].x_block.attn
    replaced = type(attention.qkv)(attention.qkv.in_features, attention.qkv.out_features)
    replaced.load_state_dict({k: 2 * v for k, v in attention.qkv.state_dict().items()})
    attention.qkv = replaced
    made.clear()
    assert not torch.equal(run.sample(guider), first)
    assert made == ["diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"]


def test_interrupted_while_they_are_made(main, positive, guide, own):
    weak = add_weights(main)
    guider = guide(model=main, positive=positive, weak_model=weak)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        Run.of(main).sample(guider)
    assert not own(weak).tensors
    assert Run.of(main).sample(guider).isfinite().all()


def bytes_of(tensors):
    return sum(t.nbytes for t in tensors)


def patched_bytes(model):
    """Of the attention matrices that the tests' LoRA is on, where it is on this model."""
    return bytes_of(comfy.utils.get_attr(model.model, key) for key in model.patches)


def test_no_more_is_kept_than_differs(pair, positive, guide, own):
    main, weak = pair
    expected = max(patched_bytes(main), patched_bytes(weak))
    Run.of(main).sample(guide(model=main, positive=positive, weak_model=weak))
    assert bytes_of(own(weak).tensors.values()) == expected


def test_weights_that_are_equal_are_not_kept(main, positive, guide, own, made):
    """One LoRA that changes some weights, and one of strength zero on all others."""
    weak = add_weights(main)
    rest = {
        key: ("diff", (torch.ones_like(weight),))
        for key, weight in main.model.named_parameters()
        if key not in weak.patches
    }
    with_rest = weak.clone()
    with_rest.add_patches(rest, 0.0)
    guider = guide(model=main, positive=positive, weak_model=with_rest)
    run = Run.of(main)
    first = run.sample(guider)
    assert len(made) == len(rest) + len(weak.patches)
    assert own(with_rest).tensors.keys() == weak.patches.keys()
    made.clear()
    assert torch.equal(run.sample(guider), first)
    assert made == []


def test_extra_memory(pair, positive, guide):
    """No second copy is left anywhere."""
    main, weak = pair
    weak = weak.clone()  # One for which nothing is kept yet.
    run = Run.of(main)
    alone = run.sample(core_guider(main, positive))
    guider = guide(model=main, positive=positive, weak_model=weak)
    before = tensor_memory()
    guided = run.sample(guider)
    extra = tensor_memory() - before - guided.nbytes
    assert not torch.equal(guided, alone)
    # What the main model's LoRA has replaced is there already, as ComfyUI's backup of it.
    # Less than that is no fault: ComfyUI may drop what an earlier run has left.
    made = patched_bytes(weak)
    assert extra - made <= 0.01 * max(patched_bytes(main), made)


def test_they_go_when_the_weak_model_goes(main, positive, guide, own):
    weak = add_weights(main)
    comfy.model_management.unload_all_models()
    guider = guide(model=main, positive=positive, weak_model=weak)
    Run.of(main).sample(guider)
    tensors = [weakref.ref(t) for t in own(weak).tensors.values()]
    assert tensors
    del guider, weak
    gc.collect()
    assert [ref() for ref in tensors if ref() is not None] == []
    assert {patcher.model for patcher in comfy.model_management.loaded_models()} == {main.model}


def test_patches_that_the_main_model_had_are_not_kept(main, positive, guide, patchings):
    """A checkpoint, the weak model here, stays when the artist takes the LoRA off the main one."""
    lora = add_weights(main)
    guider = guide(model=lora, positive=positive, weak_model=main)
    run = Run.of(main)
    run.sample(guider)
    count = len(patchings)
    # Known again while they are there.
    run.sample(guider)
    assert len(patchings) == count
    tensors = [weakref.ref(patch[1][1][0]) for (patch,) in lora.patches.values()]
    del lora, guider
    run.sample(core_guider(main, positive))
    gc.collect()
    assert [tensor() for tensor in tensors] == [None] * len(tensors)


def test_comfyui_manages_them(main, positive, negative, guide, own, requested):
    """It loads them along with the model, both times it is asked to, and knows their size."""
    comfy.model_management.unload_all_models()
    weak = add_weights(main)
    guider = guide(model=main, positive=positive, negative=negative, weak_model=weak)
    run = Run.of(main)
    run.sample(guider)
    tensors = own(weak).patcher
    assert requested[-1] == {main.model, tensors.model}
    requested.clear()
    run.sample(guider)
    assert requested == [{main.model, tensors.model}] * 2
    assert tensors in comfy.model_management.loaded_models()
    assert tensors.model_size() == tensors.loaded_size() == patched_bytes(weak)
    assert guider.model_patcher.get_additional_models() == []


def test_moved_out_and_loaded_again(main, positive, guide, made):
    weak = add_weights(main)
    guider = guide(model=main, positive=positive, weak_model=weak)
    run = Run.of(main)
    first = run.sample(guider)
    made.clear()
    comfy.model_management.unload_all_models()
    assert torch.equal(run.sample(guider), first)
    assert made == []
