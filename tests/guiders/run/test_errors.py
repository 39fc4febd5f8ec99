"""What an artist reads when something is wrong: node, input, what came, what was expected.

All of it before the main model has made a single pass, and with nothing left changed.
"""

import comfy.latent_formats
import pytest
import torch

from support.rig import Run, add_weights, core_guider, count_model_calls
from support.small_models import conditionings, unet, video_model


@pytest.fixture(params=["guider", "patch"])
def sample(request, guide, patch, positive, negative):
    """Build either node with a weak model and sample with it."""

    def sample(main, run=None, **inputs):
        if request.param == "guider":
            guider = guide(model=main, positive=positive, negative=negative, **inputs)
        else:
            guider = core_guider(patch(main, **inputs), positive, negative, 3.0)
        return (run or Run.of(main)).sample(guider)

    sample.node = {"guider": "Bad-Version Guider", "patch": "Bad-Version Patch"}[request.param]
    return sample


@pytest.fixture
def refused(sample, main, positive, negative):
    """Expect an error within a step; return its text, once it is clear that nothing changed."""

    def refused(name, main=main, **inputs):
        plain = core_guider(main, positive, negative, 3.0)
        before = Run.of(main).sample(plain)
        with count_model_calls(main) as calls, pytest.raises(ValueError) as caught:
            sample(main, **inputs)
        text = str(caught.value)
        # The main model's own; where it is the weak one too, those that find out what is wrong.
        assert calls[0] <= (4 if inputs.get("weak_model") is main else 1)
        assert text.startswith(f"{sample.node}, input '{name}': got ")
        assert "Expected " in text
        # What torch says is there as the cause, in brackets, and nowhere else.
        said, *_ = text.split("Error: ")
        assert "Tensor" not in said and "mat1" not in said
        assert torch.equal(Run.of(main).sample(plain), before)
        return text

    return refused


def test_weak_model_with_other_latent_channels(refused):
    text = refused("weak_model", weak_model=unet(0))
    assert "4 channels" in text and "16 channels" in text


def test_weak_model_with_other_latent_dimensions(refused):
    text = refused("weak_model", weak_model=video_model(0))
    assert "3 dimensions" in text and "2 dimensions" in text


def test_weak_model_with_another_vae(refused, weak):
    other = weak.clone()
    other.add_object_patch("latent_format", comfy.latent_formats.Flux())
    assert "one VAE" in refused("weak_model", weak_model=other)


def test_weak_model_with_another_noise_schedule(refused, weak, node):
    eps = node("ModelSamplingDiscrete", model=weak, sampling="eps", zsnr=False)
    text = refused("weak_model", weak_model=eps)
    assert "eps" in text and "flow" in text


def test_prompt_that_the_weak_model_cannot_take(refused, weak):
    text = refused("weak_positive", weak_model=weak, weak_positive=conditionings[0])
    assert "(1, 5, 24)" in text


def test_prompt_of_the_run_that_the_weak_model_cannot_take(refused, weak):
    """Another width in the weak model, whose own prompt was forgotten."""
    embedder = weak.model.diffusion_model.context_embedder
    wide = embedder.weight
    embedder.weight = torch.nn.Parameter(wide[:, :12].clone(), requires_grad=False)
    try:
        text = refused("weak_positive", weak_model=weak)
    finally:
        embedder.weight = wide
    assert "positive conditioning of the run" in text and "16" in text


def test_prompt_without_what_the_weak_model_needs(refused, weak, positive):
    ((context, _),) = positive
    refused("weak_positive", weak_model=weak, weak_positive=[[context, {}]])


def test_very_same_model(refused, main):
    assert "nothing changed" in refused("weak_model", weak_model=main)


def test_clone_of_the_same_model(refused, main):
    """Nodes that pass a model through hand on a clone, often with empty containers in it."""
    clone = main.clone()
    clone.model_options["transformer_options"]["patches"] = {}
    assert "nothing changed" in refused("weak_model", weak_model=clone)


def test_same_checkpoint_loaded_twice(refused, node):
    again = node("UNETLoader", unet_name="digits_main.safetensors", weight_dtype="default")
    assert "changes nothing" in refused("weak_model", weak_model=again)


def test_lora_of_strength_zero(refused, main):
    assert "changes nothing" in refused("weak_model", weak_model=add_weights(main, strength=0.0))


def test_weak_model_that_turns_out_to_change_nothing(sample, main, positive):
    """A patch that looks like a change and is none shows only in the predictions."""
    idle = main.clone()
    idle.set_model_unet_function_wrapper(
        lambda apply_model, args: apply_model(args["input"], args["timestep"], **args["c"])
    )
    with pytest.raises(ValueError, match="changes nothing: at every step"):
        sample(main, weak_model=idle)


def test_weak_model_that_is_guided_itself(refused, main, weak, patch):
    assert "itself guided" in refused("weak_model", weak_model=patch(weak, weak_model=main))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_weak_scale_that_is_not_finite(scale, refused, weak):
    assert str(scale) in refused("weak_scale", weak_model=weak, weak_scale=scale)


@pytest.mark.parametrize("steps", [0, 2.5, 17, float("nan")])
def test_weak_every_that_is_no_number_of_steps(steps, refused, weak):
    text = refused("weak_every", weak_model=weak, weak_every=steps)
    assert f"got {steps}. Expected a whole number from 1, which is every step, to 16." in text


@pytest.mark.parametrize("cfg", [float("nan"), float("inf")])
def test_cfg_that_is_not_finite(cfg, guide, main, positive, negative):
    with pytest.raises(ValueError, match=rf"Bad-Version Guider, input 'cfg': got {cfg}"):
        guide(model=main, positive=positive, negative=negative, cfg=cfg)


def test_sampler_without_positive_conditioning(patch, main, weak, positive):
    """Guiders of other packs may name their conditionings as they like."""
    guider = core_guider(patch(main, weak_model=weak), positive)
    guider.original_conds = {"prompt": guider.original_conds["positive"]}
    with pytest.raises(ValueError, match="input 'weak_positive': got nothing"):
        Run.of(main).sample(guider)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at_call", [0, 1, 2])
def test_weak_prediction_that_is_not_finite(bad, at_call, sample, main, weak):
    calls = []
    apply_model = weak.model.apply_model

    def spoiled(*args, **kwargs):
        denoised = apply_model(*args, **kwargs)
        calls.append(1)
        if len(calls) == at_call + 1:
            denoised[0, 3, 2, 1] = bad
        return denoised

    weak.model.apply_model = spoiled
    try:
        with pytest.raises(ValueError, match="NaN or infinity") as caught:
            sample(main, weak_model=weak)
    finally:
        del weak.model.apply_model
    assert str(caught.value).startswith(f"{sample.node}, input 'weak_model': ")
    assert len(calls) == at_call + 1


def test_out_of_memory_stays_comfyuis_own_message(sample, main, weak):
    def exhausted(*_, **__):
        raise torch.cuda.OutOfMemoryError("no room")

    weak.model.apply_model = exhausted
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            sample(main, weak_model=weak)
    finally:
        del weak.model.apply_model
