"""Weaker weights on the same base, against the same weights in a checkpoint of their own."""

import copy
import hashlib
import importlib
import json
import math

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from support.rig import Run, add_weights, close, core_guider, weight_hook
from support.small_models import unet, video_model

NODE = "Some Weaken Node"
PREFIX = "diffusion_model."
QKV = PREFIX + "joint_blocks.1.x_block.attn.qkv.weight"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def weak_weights(pack):
    return importlib.import_module(".guiders.weaken.weights", pack.__name__)


@pytest.fixture(scope="module")
def degradations(pack):
    return importlib.import_module(".guiders.weaken.degradations", pack.__name__)


@pytest.fixture(scope="module")
def digits():
    """The digits model in a dtype of choice, from its file anew."""
    path = folder_paths.get_full_path_or_raise("diffusion_models", "digits_main.safetensors")
    return lambda dtype: comfy.sd.load_diffusion_model(path, model_options={"dtype": dtype})


def matrices(model):
    """Keys of every matrix and kernel in the network's blocks."""
    return [
        key
        for key, parameter in model.model.named_parameters()
        if "joint_blocks" in key and parameter.ndim >= 2
    ]


def state_as_loaded(model):
    """Copies of what ComfyUI has in place once the model is loaded with its patches."""
    comfy.model_management.load_models_gpu([model])
    state = model.model.diffusion_model.state_dict()
    copied = {key: weight.clone().contiguous() for key, weight in state.items()}
    comfy.model_management.unload_all_models()
    return copied


def weight_of(model, key=QKV):
    return state_as_loaded(model)[key.removeprefix(PREFIX)]


def checkpoint(state, dtype):
    return comfy.sd.load_diffusion_model_state_dict(dict(state), {"dtype": dtype})


def other_checkpoint(model, seed=5):
    """The model as it might have been before its finetuning: every parameter is another."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {name for name, _ in model.model.diffusion_model.named_parameters()}
    plain = model.clone()
    plain.patches = {}
    state = state_as_loaded(plain)
    for name in parameters:
        factors = 1 + 0.2 * torch.randn(state[name].shape, generator=generator)
        state[name] = state[name] * factors.to(state[name].dtype)
    return checkpoint(state, model.model_dtype())


METHODS = {
    "another checkpoint": lambda ww, model: ww.against_base(
        NODE, model, other_checkpoint(model), amount=0.7
    ),
    "another checkpoint itself": lambda ww, model: ww.against_base(
        NODE, model, add_weights(other_checkpoint(model), seed=8), amount=1.0
    ),
    "the same base": lambda ww, model: ww.against_base(
        NODE, model, add_weights(model, strength=0.2, seed=4), amount=1.5
    ),
    "noise": lambda ww, model: ww.with_noise(NODE, model, amount=0.2, seed=3, keys=matrices(model)),
    "bits": lambda ww, model: ww.with_fewer_bits(NODE, model, bits=4, keys=matrices(model)),
    "rank": lambda ww, model: ww.with_low_rank(NODE, model, keep=0.3, keys=matrices(model)),
    "LoRAs off": lambda ww, model: ww.without_loras(NODE, model, keep=0.0),
    "LoRAs down": lambda ww, model: ww.without_loras(NODE, model, keep=0.4),
}
NEED_LORA = {"LoRAs off", "LoRAs down"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "lora"),
    [(name, lora) for name in METHODS for lora in (False, True) if lora or name not in NEED_LORA],
)
def test_equals_its_weights_in_a_checkpoint(
    name, lora, dtype, weak_weights, digits, guide, positive, negative, tmp_path
):
    """The central promise: connected as it is, or written to a file and loaded, it is the same.

    Both ways round to the dtype of the weights in the same place, so not a bit may differ.
    """
    main = add_weights(digits(dtype)) if lora else digits(dtype)
    weak = METHODS[name](weak_weights, main)
    file = tmp_path / "weak.safetensors"
    save_file(state_as_loaded(weak), file)
    second = comfy.sd.load_diffusion_model(str(file), model_options={"dtype": dtype})
    assert second.model.diffusion_model.joint_blocks[1].x_block.attn.qkv.weight.dtype == dtype

    run = Run.of(main)
    inputs = {"model": main, "positive": positive, "negative": negative}
    alone = run.sample(core_guider(main, positive, negative, 3.0))
    by_swap = run.sample(guide(**inputs, weak_model=weak))
    assert torch.equal(by_swap, run.sample(guide(**inputs, weak_model=second)))
    assert not close(by_swap, alone, 1e-3), "the weak model would not be seen"
    assert torch.equal(run.sample(core_guider(main, positive, negative, 3.0)), alone)


@pytest.mark.parametrize("name", METHODS)
def test_the_given_model_stays_as_it_is(name, weak_weights, digits):
    main = add_weights(digits(torch.float32))
    before = state_as_loaded(main)
    patches, uuid = {key: list(patches) for key, patches in main.patches.items()}, main.patches_uuid
    weak = METHODS[name](weak_weights, main)
    state_as_loaded(weak)
    assert weak.is_clone(main)
    assert (main.patches, main.patches_uuid) == (patches, uuid)
    assert weak.patches_uuid != uuid
    after = state_as_loaded(main)
    assert all(torch.equal(after[key], weight) for key, weight in before.items())


@pytest.mark.parametrize("name", METHODS)
def test_the_same_again_from_a_fresh_load(name, weak_weights, digits):
    one, two = (
        state_as_loaded(METHODS[name](weak_weights, add_weights(digits(torch.float32))))
        for _ in range(2)
    )
    assert all(torch.equal(two[key], weight) for key, weight in one.items())


# The weights themselves, by hand


def by_hand(degradations, W, key=QKV, seed=3):
    """Each formula applied to a weight in float32."""
    digest = hashlib.blake2b(repr((seed, key)).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return {
        "noise": degradations.add_relative_noise(W, 0.2, generator),
        "bits": degradations.quantize(W, 4),
        "rank": degradations.truncate_rank(W, 0.3),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["noise", "bits", "rank"])
def test_the_formula_is_applied_to_the_patched_weight(
    name, dtype, weak_weights, degradations, digits
):
    """Only the end result is rounded; the LoRA is under it in float32."""
    main = digits(dtype)
    lora = add_weights(main)
    [(strength, (_, (difference,)), *_)] = lora.patches[QKV]
    patched = weight_of(main).float() + strength * difference
    expected = by_hand(degradations, patched)[name].to(dtype)
    assert torch.equal(weight_of(METHODS[name](weak_weights, lora)), expected)


@pytest.mark.parametrize("name", ["noise", "bits", "rank"])
def test_a_lora_behind_the_degradation(name, weak_weights, degradations, main):
    [(strength, (_, (difference,)), *_)] = add_weights(main).patches[QKV]
    weak = add_weights(METHODS[name](weak_weights, main))
    expected = by_hand(degradations, weight_of(main))[name] + strength * difference
    assert torch.equal(weight_of(weak), expected)


def test_all_that_is_asked_for_is_degraded_and_nothing_else(weak_weights, main):
    keys = [
        QKV,
        PREFIX + "x_embedder.proj.weight",
        PREFIX + "joint_blocks.1.x_block.attn.qkv.bias",
        PREFIX + "joint_blocks.1.x_block.attn.ln_q.weight",
        PREFIX + "pos_embed",
        PREFIX + "no.such.weight",
        "model_sampling.sigmas",
    ]
    before = state_as_loaded(main)
    for weak in (
        weak_weights.with_noise(NODE, main, amount=0.1, seed=0, keys=set(keys)),
        weak_weights.with_fewer_bits(NODE, main, bits=4, keys=tuple(keys)),
        weak_weights.with_low_rank(NODE, main, keep=0.5, keys=dict.fromkeys(keys)),
    ):
        after = state_as_loaded(weak)
        changed = {PREFIX + key for key in before if not torch.equal(after[key], before[key])}
        assert changed == set(keys[:2])


def test_tables_that_belong_to_no_layer_stay(weak_weights):
    """ComfyUI's loader passes over them, as over the modulation in each block of Wan."""
    model = video_model(seed=0)
    keys = list(model.model.state_dict())
    weak = weak_weights.with_fewer_bits(NODE, model, bits=4, keys=keys)
    assert any(key.endswith("modulation") for key in keys)
    assert weak.patches.keys() == {
        key
        for key, parameter in model.model.named_parameters()
        if parameter.ndim >= 2 and not key.endswith("modulation")
    }
    before = state_as_loaded(model)
    after = state_as_loaded(weak)
    changed = {PREFIX + key for key in before if not torch.equal(after[key], before[key])}
    assert changed == weak.patches.keys()


def test_noise_is_another_for_each_weight_and_seed(weak_weights, main):
    def noise(seed, block):
        key = PREFIX + f"joint_blocks.{block}.x_block.attn.qkv.weight"
        weak = weak_weights.with_noise(NODE, main, amount=0.2, seed=seed, keys=[key])
        return (weight_of(weak, key) - weight_of(main, key)).flatten()

    noises = torch.stack([noise(0, 1), noise(0, 2), noise(1, 1)])
    assert (torch.corrcoef(noises) - torch.eye(3)).abs().max() < 0.02


def test_two_degradations_in_both_orders(weak_weights, degradations, main):
    first, second = METHODS["bits"], METHODS["rank"]
    W = weight_of(main)
    bits_first = weight_of(second(weak_weights, first(weak_weights, main)))
    rank_first = weight_of(first(weak_weights, second(weak_weights, main)))
    assert torch.equal(bits_first, degradations.truncate_rank(degradations.quantize(W, 4), 0.3))
    assert torch.equal(rank_first, degradations.quantize(degradations.truncate_rank(W, 0.3), 4))
    assert not close(bits_first, rank_first, 0.01)


# Against a base


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("amount", [-0.5, 0.3, 1.0, 1.6])
def test_against_base_by_hand(amount, dtype, weak_weights, digits):
    """Every parameter, biases and norms too, each of the two models with its own LoRA."""
    main = digits(dtype)
    other = other_checkpoint(main)
    weak = weak_weights.against_base(
        NODE, add_weights(main), add_weights(other, seed=8), amount=amount
    )
    state, W, B = state_as_loaded(weak), state_as_loaded(main), state_as_loaded(other)
    loras = add_weights(main).patches, add_weights(other, seed=8).patches
    parameters = [name for name, _ in main.model.diffusion_model.named_parameters()]
    assert weak.patches.keys() == {PREFIX + name for name in parameters}
    for name in parameters:
        w, b = W[name].double(), B[name].double()
        if PREFIX + name in loras[0]:
            [(strength, (_, (mine,)), *_)], [(_, (_, (theirs,)), *_)] = (
                patches[PREFIX + name] for patches in loras
            )
            w, b = w + strength * mine.double(), b + strength * theirs.double()
        expected = (w + amount * (b - w)).to(dtype)
        torch.testing.assert_close(state[name], expected, msg=name)
        assert not torch.equal(state[name], W[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_base_at_one_is_the_base(dtype, weak_weights, digits):
    """Bit for bit, whatever LoRAs are on the main model."""
    main = digits(dtype)
    base = add_weights(other_checkpoint(main), seed=8)
    weak = weak_weights.against_base(NODE, add_weights(main, strength=5.0), base, amount=1.0)
    state, expected = state_as_loaded(weak), state_as_loaded(base)
    buffers = {name for name, _ in main.model.diffusion_model.named_buffers()}
    assert all(torch.equal(state[key], expected[key]) for key in state.keys() - buffers)


def test_only_what_differs_is_patched_on_the_same_base(weak_weights, main):
    """Memory and time of a weak version are those of its differing weights."""
    base = add_weights(main)
    lora = add_weights(base, seed=4)
    one = next(iter(lora.patches))
    less = lora.clone()
    less.patches = {
        key: patches[:1] if key == one else patches for key, patches in lora.patches.items()
    }
    weak = weak_weights.against_base(NODE, lora, less, amount=1.0)
    longer = [key for key, patches in weak.patches.items() if len(patches) > 2]
    assert longer == [one]
    assert torch.equal(weight_of(weak, one), weight_of(base, one))


def test_a_base_that_is_in_use(weak_weights, main):
    """Read are its weights and its patches, not what happens to be in place."""
    other = other_checkpoint(main)
    base = add_weights(other, seed=8)
    expected = weight_of(base)
    hook = weight_hook({QKV: ("diff", (torch.ones_like(expected),))})
    for in_place in (base, other, add_weights(other, seed=9)):
        weak = weak_weights.against_base(NODE, main, base, amount=1.0)
        comfy.model_management.load_models_gpu([in_place])
        in_place.add_hook_patches(hook.hooks[0], hook.hooks[0].weights)
        in_place.patch_hooks(hook)
        try:
            assert torch.equal(weight_of_loaded_beside(weak, in_place), expected)
        finally:
            in_place.patch_hooks(None)
            comfy.model_management.unload_all_models()


def weight_of_loaded_beside(weak, other):
    """The weight of ``weak`` while ``other`` stays as it is, hooks and all."""
    assert other.hook_backup
    maker = weak.clone()
    maker.backup = {}
    maker.patch_weight_to_device(QKV)
    made = comfy.utils.get_attr(weak.model, QKV).clone()
    comfy.utils.set_attr_param(weak.model, QKV, maker.backup[QKV].weight)
    return made


def test_a_base_of_another_dtype(weak_weights, digits):
    base = other_checkpoint(digits(torch.bfloat16))
    weak = weak_weights.against_base(NODE, digits(torch.float32), base, amount=1.0)
    assert torch.equal(weight_of(weak), weight_of(base).float())


# LoRAs


def test_the_strength_of_loras_is_scaled(weak_weights, main):
    lora = add_weights(add_weights(main, strength=0.3, seed=1), strength=-0.5, seed=2)
    for keep in (0.25, -1.0, 2.0):
        weak = weak_weights.without_loras(NODE, lora, keep=keep)
        again = add_weights(add_weights(main, strength=keep * 0.3, seed=1), -0.5 * keep, seed=2)
        assert torch.equal(weight_of(weak), weight_of(again))
    off = weak_weights.without_loras(NODE, lora, keep=0.0)
    assert off.patches == {}
    assert torch.equal(weight_of(off), weight_of(main))


def test_what_is_no_lora_stays(weak_weights, node, main):
    """A merge below, a degradation between, a LoRA with offset: only LoRAs are touched."""
    merged = node("ModelMergeSimple", model1=main, model2=other_checkpoint(main), ratio=0.4)
    added = node("ModelMergeAdd", model1=merged, model2=other_checkpoint(main))
    added.add_patches({QKV: ("diff", (torch.ones(768, 256),))}, 0.4, 0.6)
    noisy = METHODS["noise"](weak_weights, added)
    lora = add_weights(noisy)
    part = torch.ones(256, 256)
    lora.add_patches({(QKV, (0, 256, 256)): ("diff", (part,))}, 0.8)
    off = weak_weights.without_loras(NODE, lora, keep=0.0)
    assert off.patches == noisy.patches
    half = weak_weights.without_loras(NODE, lora, keep=0.5).patches[QKV]
    assert half[:4] == noisy.patches[QKV]
    assert [patch[0] for patch in half[4:]] == [0.15, 0.4]
    assert half[5][3] == (0, 256, 256)
    assert all(kept[1] is given[1] for kept, given in zip(half, lora.patches[QKV], strict=True))


# Wherever ComfyUI patches weights


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["noise", "bits", "rank"])
def test_on_the_fly(name, dtype, weak_weights, degradations, main):
    """ComfyUI patches an offloaded weight at each use, in the dtype that the use asks for."""
    lora = add_weights(main)
    weak = METHODS[name](weak_weights, lora)
    [(strength, (_, (difference,)), *_)] = lora.patches[QKV]
    W = weight_of(main).to(dtype)
    expected = by_hand(degradations, (W + strength * difference.to(dtype)).float())[name]
    patch = comfy.model_patcher.LowVramPatch(QKV, weak.patches)
    for _ in range(2):
        assert torch.equal(patch(W.clone()), expected.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_fly_against_a_base(dtype, weak_weights, main):
    base = add_weights(other_checkpoint(main), seed=8)
    weak = weak_weights.against_base(NODE, add_weights(main), base, amount=1.0)
    patch = comfy.model_patcher.LowVramPatch(QKV, weak.patches)
    assert torch.equal(patch(weight_of(main).to(dtype)), weight_of(base).to(dtype))


@pytest.fixture
def offloaded(monkeypatch):
    """A card with room for a part of the weights; called, it makes a picture there."""
    load = comfy.model_patcher.ModelPatcher.partially_load

    def partially_load(self, device_to, extra_memory=0, **options):
        return load(self, device_to, 3_000_000, **options)

    def sample(run, guider):
        comfy.model_management.unload_all_models()
        with monkeypatch.context() as patched:
            patched.setattr(comfy.model_patcher.ModelPatcher, "partially_load", partially_load)
            latent = run.sample(guider)
        assert guider.model_patcher.model.model_lowvram
        comfy.model_management.unload_all_models()
        return latent

    return sample


@pytest.mark.parametrize("name", ["the same base", "noise", "bits", "rank", "LoRAs down"])
def test_partly_offloaded(name, weak_weights, main, positive, offloaded):
    weak = METHODS[name](weak_weights, add_weights(main))
    run = Run.of(main)
    whole = run.sample(core_guider(weak, positive))
    assert close(offloaded(run, core_guider(weak, positive)), whole)


def test_partly_offloaded_against_another_checkpoint(node, weak_weights, main, positive, offloaded):
    """As ComfyUI's own merge. Both lose the norms, which ComfyUI does not patch on the fly."""
    other = other_checkpoint(main)
    weak = weak_weights.against_base(NODE, main, other, amount=0.75)
    merged = node("ModelMergeSimple", model1=main, model2=other, ratio=0.25)
    run = Run.of(main)
    expected = offloaded(run, core_guider(merged, positive))
    assert close(offloaded(run, core_guider(weak, positive)), expected)


@pytest.mark.parametrize("name", ["noise", "bits", "rank", "another checkpoint", "the same base"])
def test_in_a_hook(name, weak_weights, main, positive):
    """The patches of a weak version as a hook on the model's conditioning."""
    weak = METHODS[name](weak_weights, main)
    group = weight_hook({key: patches[-1][1] for key, patches in weak.patches.items()})
    hooked = comfy.hooks.set_hooks_for_conditioning(positive, group)
    run = Run.of(main)
    expected = run.sample(core_guider(weak, positive))
    assert close(run.sample(core_guider(main, hooked)), expected, 1e-6)


def test_in_a_hook_at_half_strength(weak_weights, degradations, main, positive):
    weak = METHODS["bits"](weak_weights, main)
    group = weight_hook({key: patches[0][1] for key, patches in weak.patches.items()}, (0.5, 0.0))
    hooked = comfy.hooks.set_hooks_for_conditioning(positive, group)
    half = main.clone()
    for key in weak.patches:
        W = weight_of(main, key)
        half.add_patches({key: ("diff", (0.5 * (degradations.quantize(W, 4) - W),))})
    run = Run.of(main)
    expected = run.sample(core_guider(half, positive))
    assert close(run.sample(core_guider(main, hooked)), expected)


@pytest.mark.parametrize("name", ["noise", "bits", "rank", "another checkpoint"])
def test_in_model_merges(name, node, weak_weights, degradations, main):
    """As the second model of a merge, and on top of one."""
    other = other_checkpoint(main, seed=6)
    W, other_W = weight_of(main), weight_of(other)
    weak = METHODS[name](weak_weights, main)
    merged = node("ModelMergeSimple", model1=other, model2=weak, ratio=0.25)
    torch.testing.assert_close(weight_of(merged), 0.25 * other_W + 0.75 * weight_of(weak))
    if name != "another checkpoint":
        merged = node("ModelMergeSimple", model1=main, model2=other, ratio=0.25)
        expected = by_hand(degradations, 0.25 * W + 0.75 * other_W)[name]
        actual = weight_of(METHODS[name](weak_weights, merged))
        # A weight on the edge between two levels may be rounded to the other one.
        assert close(actual, expected, 1e-2 if name == "bits" else 1e-5)


def test_a_merge_as_the_base(node, weak_weights, main):
    other = other_checkpoint(main)
    merged = node("ModelMergeSimple", model1=main, model2=other, ratio=0.25)
    weak = weak_weights.against_base(NODE, add_weights(main), merged, amount=1.0)
    assert torch.equal(weight_of(weak), weight_of(merged))


def test_copies_of_a_weak_version(weak_weights, main):
    """Nodes downstream clone the model, and some packs copy what they find on it."""
    for name in ("noise", "another checkpoint"):
        weak = METHODS[name](weak_weights, main)
        expected = weight_of(weak)
        assert torch.equal(weight_of(weak.clone().clone()), expected)
        deep = main.clone()
        [(strength, adapter, *_)] = weak.patches[QKV]
        deep.add_patches({QKV: copy.deepcopy(adapter)}, strength)
        assert torch.equal(weight_of(deep), expected)
        assert (adapter.loaded_keys, adapter.weights) == (set(), [])


# Weights in 8 bits


@pytest.mark.parametrize("name", METHODS)
def test_weights_in_8_bits(name, weak_weights, digits, guide, positive, negative):
    """ComfyUI rounds the weaker weights back to 8 bits, with a seed of its own."""
    dtype = torch.float8_e4m3fn
    main = add_weights(digits(dtype))
    weak = METHODS[name](weak_weights, main)
    second = checkpoint(state_as_loaded(weak), dtype)
    assert weight_of(second).dtype == dtype
    run = Run.of(main)
    inputs = {"model": main, "positive": positive, "negative": negative}
    by_swap = run.sample(guide(**inputs, weak_model=weak))
    assert torch.equal(by_swap, run.sample(guide(**inputs, weak_model=second)))


def scaled_fp8(model):
    """The model as a checkpoint whose linear layers hold 8 bits and a scale each."""
    state = state_as_loaded(model)
    for name, module in model.model.diffusion_model.named_modules():
        if isinstance(module, torch.nn.Linear):
            weight = state[f"{name}.weight"].float()
            scale = weight.abs().max() / 448
            state[f"{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
            state[f"{name}.scale_weight"] = scale
    state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return comfy.sd.load_diffusion_model_state_dict(state)


def mixed_precision(model):
    """The model as a checkpoint of ComfyUI's newer kind, whose layers hold quantised tensors."""
    state, layers = state_as_loaded(model), {}
    for name, module in model.model.diffusion_model.named_modules():
        if isinstance(module, torch.nn.Linear) and "joint_blocks" in name:
            weight = state[f"{name}.weight"].float()
            scale = weight.abs().max() / 448
            state[f"{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
            state[f"{name}.weight_scale"] = scale
            state[f"{name}.input_scale"] = torch.tensor(1.0)
            layers[name] = {"format": "float8_e4m3fn"}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    return comfy.sd.load_diffusion_model_state_dict(state, metadata=metadata)


QUANTISED = [scaled_fp8] + ([mixed_precision] if hasattr(comfy.ops, "mixed_precision_ops") else [])


@pytest.fixture(params=QUANTISED)
def quantised(request, digits):
    return request.param(digits(torch.float32))


def numbers(model):
    """The weight as the network sees it."""
    comfy.model_management.load_models_gpu([model])
    weight, _, convert = comfy.model_patcher.get_key_weight(model.model, QKV)
    weight = convert(comfy.model_management.cast_to_device(weight, weight.device, torch.float32))
    comfy.model_management.unload_all_models()
    return weight.float()


@pytest.mark.parametrize("name", ["noise", "bits", "rank"])
def test_quantised_layers(name, quantised, weak_weights, degradations, guide, positive):
    keys = [key for key in dict(quantised.model.named_parameters()) if "joint_blocks" in key]
    weak = {
        "noise": lambda: weak_weights.with_noise(NODE, quantised, amount=0.2, seed=3, keys=keys),
        "bits": lambda: weak_weights.with_fewer_bits(NODE, quantised, bits=4, keys=keys),
        "rank": lambda: weak_weights.with_low_rank(NODE, quantised, keep=0.3, keys=keys),
    }[name]()
    assert all(key.endswith("weight") for key in weak.patches)
    expected = by_hand(degradations, numbers(quantised))[name]
    assert close(numbers(weak), expected, 0.05)


def test_quantised_layers_against_a_base(quantised, weak_weights, digits, positive):
    """Each model keeps its own scales, and what is compared are the numbers they stand for."""
    plain = digits(torch.float32)
    other = other_checkpoint(plain)
    weak = weak_weights.against_base(NODE, quantised, other, amount=1.0)
    assert not any("scale" in key for key in weak.patches)
    assert close(numbers(weak), weight_of(other), 0.05)
    run = Run.of(plain)
    expected = run.sample(core_guider(other, positive))
    assert close(run.sample(core_guider(weak, positive)), expected, 0.2)
    # The other way round the base is read exactly.
    weak = weak_weights.against_base(NODE, plain, quantised, amount=1.0)
    assert torch.equal(weight_of(weak), numbers(quantised))


class Packed(torch.Tensor):
    """A weight as loaders of packed files keep it: codes, in a class that can read them."""


@pytest.fixture
def packed(digits):
    model = digits(torch.float32)
    codes = torch.zeros(768, 256, dtype=torch.uint8).as_subclass(Packed)
    comfy.utils.set_attr_param(model.model, QKV, codes)
    return model


def test_packed_weights(packed, weak_weights, pack, main):
    """Their own loader hands patches the numbers; nobody but it can read them for another model."""
    assert QKV in weak_weights.with_noise(NODE, packed, amount=0.1, seed=0, keys=[QKV]).patches
    assert QKV in weak_weights.against_base(NODE, packed, main, amount=1.0).patches
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"'base_model'.*1 of 106.*packed"):
        weak_weights.against_base(NODE, main, packed, amount=1.0)


def test_whole_numbers_are_no_weights(digits, weak_weights, pack):
    model = digits(torch.float32)
    comfy.utils.set_attr_param(model.model, QKV, torch.zeros(768, 256, dtype=torch.int64))
    with pytest.raises(pack.guiders.errors.GuidanceError, match="'blocks'"):
        weak_weights.with_noise(NODE, model, amount=0.1, seed=0, keys=[QKV])


# Errors


def call(weak_weights, method, model, **inputs):
    defaults = {
        "with_noise": {"amount": 0.1, "seed": 0, "keys": [QKV]},
        "with_fewer_bits": {"bits": 4, "keys": [QKV]},
        "with_low_rank": {"keep": 0.5, "keys": [QKV]},
        "without_loras": {"keep": 0.0},
        "against_base": {"amount": 1.0},
    }[method]
    return getattr(weak_weights, method)(NODE, model, **(defaults | inputs))


@pytest.mark.parametrize(
    ("method", "name", "values"),
    [
        ("with_noise", "amount", (0.0, math.nan, math.inf)),
        ("with_fewer_bits", "bits", (1, 0, -3, 17)),
        ("with_low_rank", "keep", (1.0, 1.5, -0.1, math.nan, -math.inf)),
        ("without_loras", "keep", (1.0, math.nan, math.inf)),
        ("against_base", "amount", (0.0, math.nan, math.inf)),
    ],
)
def test_numbers_that_make_no_weak_version(pack, weak_weights, main, method, name, values):
    lora = add_weights(main)
    base = {"base": main} if method == "against_base" else {}
    for value in values:
        with pytest.raises(pack.guiders.errors.GuidanceError, match=f"^{NODE}, input '{name}'"):
            call(weak_weights, method, lora, **base, **{name: value})


@pytest.mark.parametrize("method", ["with_noise", "with_fewer_bits", "with_low_rank"])
@pytest.mark.parametrize(
    "keys",
    [[], ["no.such.weight"], [QKV.replace("weight", "bias")], [PREFIX + "pos_embed"]],
    ids=str,
)
def test_nothing_to_degrade(pack, weak_weights, main, method, keys):
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"'blocks'.*SD3.*no weight matrix"):
        call(weak_weights, method, main, keys=keys)


@pytest.mark.parametrize("strength", [None, 0.0])
def test_no_lora_to_take_away(pack, weak_weights, main, strength):
    model = main if strength is None else add_weights(main, strength)
    model = METHODS["noise"](weak_weights, model)
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"'model'.*without a LoRA"):
        call(weak_weights, "without_loras", model)


def test_a_base_that_is_the_model_itself(pack, weak_weights, main):
    lora = add_weights(main)
    for model, base in ((main, main), (main, main.clone()), (lora, lora.clone())):
        with pytest.raises(pack.guiders.errors.GuidanceError, match=r"'base_model'.*very weights"):
            call(weak_weights, "against_base", model, base=base)


def test_a_base_of_another_size(pack, weak_weights, main, weak):
    with pytest.raises(pack.guiders.errors.GuidanceError, match="'base_model'") as error:
        call(weak_weights, "against_base", main, base=weak)
    message = str(error.value)
    assert "x_embedder.proj.weight is 128×16×2×2 instead of 256×16×2×2" in message
    assert "97 of 106 weights do not fit" in message
    with pytest.raises(pack.guiders.errors.GuidanceError, match="is missing"):
        call(weak_weights, "against_base", main, base=unet(seed=0))


def test_a_lora_that_enlarges_a_weight(pack, weak_weights, main):
    """As those for depth and edges do, which add input channels."""
    key = PREFIX + "context_embedder.weight"
    larger = main.clone()
    larger.add_patches({key: ("diff", (torch.ones(256, 20), {"pad_weight": True}))})
    weak = weak_weights.against_base(NODE, larger, add_weights(other_checkpoint(main)), amount=0.5)
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"256×16.*LoRAs.*256×20"):
        state_as_loaded(weak)
    comfy.model_management.unload_all_models()
