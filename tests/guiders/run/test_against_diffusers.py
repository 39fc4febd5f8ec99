"""The formulas against other people's code on the same predictions: diffusers and ComfyUI."""

import sys
from types import SimpleNamespace

import comfy.model_sampling
import pytest
import torch
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    ClassifierFreeZeroStarGuidance,
    FrequencyDecoupledGuidance,
)
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.frequency_decoupled_guidance import project
from diffusers.guiders.guider_utils import rescale_noise_cfg

from support.rig import call

STEPS = 5

# Sides of powers of two, to which kornia's pyramid would pad others.
SHAPE = (3, 4, 16, 32)


def predictions(shape=SHAPE, count=2, seed=0):
    """Predictions that have something in common, as those of real models do."""
    generator = torch.Generator().manual_seed(seed)
    C, *others = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return [C, *(C + 0.4 * other for other in others)]


@pytest.fixture(scope="module")
def formulas(pack):
    return pack.guiders.push.formulas


@pytest.fixture(scope="module")
def noise(pack):
    sigmas = tuple(float(STEPS - i) for i in range(STEPS + 1))
    return pack.guiders.push.noise.Noise(
        False, lambda percent: STEPS * (1 - percent), sigmas=sigmas
    )


@pytest.fixture(scope="module")
def step_of(pack, noise):
    def step_of(x, C, R, i=0):
        return pack.guiders.push.call.Step(
            noise=noise,
            x=x,
            sigma=x.new_full((len(x),), noise.sigmas[i]),
            C=C,
            R=R,
            difference=C - R,
            other=lambda: None,
            predict=lambda conditioning: pytest.fail("no shape here asks for a prediction"),
            measure_level=lambda: noise.sigmas[i],
        )

    return step_of


def guided_run(shape, formulas, noise, step_of, scale, pairs):
    """Predictions of a run that is guided by one push of one shape."""
    running = shape.start(noise)
    for i, (C, R) in enumerate(pairs):
        shaped = running(C - R, step_of(C, C, R, i), scale - 1)
        yield formulas.add_push(C, shaped, scale - 1)


def pairs_of_a_run(shape=SHAPE):
    return [predictions(shape, seed=i) for i in range(STEPS)]


def diffusers_run(guidance, pairs):
    for i, (C, R) in enumerate(pairs):
        guidance.set_state(step=i, num_inference_steps=len(pairs), timestep=None)
        guidance.prepare_inputs({})
        yield guidance.forward(C, R).pred


# Adaptive projected guidance

APG = [
    {"eta": 0.0, "norm_threshold": 15.0, "momentum": -0.5},
    {"eta": 0.3, "norm_threshold": 0.0, "momentum": 0.7},
    {"eta": 1.0, "norm_threshold": 8.0, "momentum": 0.0},
    {"eta": -2.0, "norm_threshold": 0.0, "momentum": 0.0},
]


@pytest.mark.parametrize("settings", APG)
@pytest.mark.parametrize("shape", [SHAPE, (2, 3, 4, 8, 8)])
def test_apg_of_diffusers(shape, settings, pack, formulas, noise, step_of):
    """Its original formulation starts from C, and counts the scale from 0."""
    scale, pairs = 7.5, pairs_of_a_run(shape)
    guidance = AdaptiveProjectedGuidance(
        guidance_scale=scale - 1,
        adaptive_projected_guidance_momentum=settings["momentum"] or None,
        adaptive_projected_guidance_rescale=settings["norm_threshold"],
        eta=settings["eta"],
        use_original_formulation=True,
    )
    own = guided_run(
        pack.guiders.push.shapes.Projected(**settings), formulas, noise, step_of, scale, pairs
    )
    for actual, expected in zip(own, diffusers_run(guidance, pairs), strict=True):
        torch.testing.assert_close(actual, expected)


class Patched:
    """Stands for a model on which a node hangs a function."""

    def __init__(self, prediction):
        self.function = None
        self.sampling = prediction()
        self.asked = False

    def clone(self):
        return self

    def get_model_object(self, name):
        assert name == "model_sampling"
        self.asked = True
        return self.sampling

    def set_model_sampler_cfg_function(self, function):
        self.function = function

    set_model_sampler_pre_cfg_function = set_model_sampler_post_cfg_function = (
        set_model_sampler_cfg_function
    )


@pytest.fixture(scope="module")
def hung(comfy_nodes):
    """What a node of ComfyUI hangs on a model."""

    def hung(node_id, prediction=comfy.model_sampling.EPS, **inputs):
        patched = Patched(prediction)
        call(comfy_nodes[node_id], model=patched, **inputs)
        if prediction is not comfy.model_sampling.EPS and not patched.asked:
            pytest.skip("to this ComfyUI all models are alike here")
        return patched.function

    return hung


def core_cfg(C, R, scale):
    return R + scale * (C - R)


@pytest.mark.parametrize("settings", APG)
def test_apg_of_comfyui(settings, pack, formulas, noise, step_of, hung):
    """Its scale counts from 0 too: C stays out of what the scale multiplies."""
    scale, pairs = 7.5, pairs_of_a_run()
    pre_cfg = hung("APG", **settings)
    own = guided_run(
        pack.guiders.push.shapes.Projected(**settings), formulas, noise, step_of, scale, pairs
    )
    for i, ((C, R), actual) in enumerate(zip(pairs, own, strict=True)):
        sigma = torch.full((len(C),), noise.sigmas[i])
        arguments = {"conds_out": [C, R], "sigma": sigma, "cond_scale": scale - 1}
        expected = core_cfg(*pre_cfg(arguments), scale - 1)
        torch.testing.assert_close(actual, expected)


def test_two_parts_of_diffusers(formulas):
    delta, direction = predictions()
    parallel, orthogonal = project(delta, direction)
    torch.testing.assert_close(formulas.kept_along(delta, direction), parallel)
    torch.testing.assert_close(formulas.rejected(delta, direction), orthogonal)
    expected = orthogonal + 0.3 * parallel
    torch.testing.assert_close(formulas.projected(delta, direction, 0.3), expected)


# Rescaled guidance


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("scale", [0.3, 7.5])
def test_rescale_of_diffusers(scale, phi, formulas):
    C, R = predictions()
    expected = rescale_noise_cfg(core_cfg(C, R, scale), C, guidance_rescale=phi)
    shaped = formulas.rescaled(C - R, C, scale - 1, phi)
    torch.testing.assert_close(formulas.add_push(C, shaped, scale - 1), expected)


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescale_of_comfyui_is_ours_on_velocities(phi, formulas, hung):
    """It takes each prediction as what a v-model would have put out."""
    C, R, x = predictions(count=3)
    scale, sigma = 7.5, torch.tensor([0.3, 2.0, 14.6], dtype=torch.float64)
    rescale = hung("RescaleCFG", multiplier=phi)
    # ComfyUI hands over x less the prediction, and wants the like back.
    expected = x - rescale(
        {"cond": x - C, "uncond": x - R, "cond_scale": scale, "sigma": sigma, "input": x}
    )

    # denoised = x/(σ² + 1) − v · σ/√(σ² + 1)
    s = sigma.view(-1, 1, 1, 1)
    kept, share = 1 / (s**2 + 1), s / (s**2 + 1).sqrt()
    v_C, v_R = (kept * x - C) / share, (kept * x - R) / share
    v = formulas.add_push(v_C, formulas.rescaled(v_C - v_R, v_C, scale - 1, phi), scale - 1)
    torch.testing.assert_close(kept * x - share * v, expected)


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescale_of_comfyui_is_ours_on_flow_models(phi, formulas, hung):
    """In releases after 0.3.75, which do not make velocities of their predictions."""
    C, R, x = predictions(count=3)
    rescale = hung("RescaleCFG", comfy.model_sampling.CONST, multiplier=phi)
    expected = x - rescale(
        {"cond_denoised": C, "uncond_denoised": R, "cond_scale": 7.5, "input": x}
    )
    actual = formulas.add_push(C, formulas.rescaled(C - R, C, 6.5, phi), 6.5)
    torch.testing.assert_close(actual, expected)


# CFG-Zero*


@pytest.mark.parametrize("sigma", [0.3, 1.0, 14.6])
def test_zero_star_of_diffusers(sigma, formulas):
    """On velocities, from step 1 on, as it makes nothing of the first; it computes in 32 bits."""
    C, R, x = predictions(count=3)
    guidance = ClassifierFreeZeroStarGuidance(guidance_scale=7.5)
    guidance.set_state(step=1, num_inference_steps=STEPS, timestep=None)
    velocity = guidance.forward((x - C) / sigma, (x - R) / sigma).pred
    actual = formulas.add_push(C, formulas.zero_star(C - R, x, C), 6.5)
    torch.testing.assert_close(actual, x - sigma * velocity, rtol=1e-5, atol=1e-5)


def test_zero_star_scales_as_diffusers_does(formulas):
    C, R, x = predictions(count=3)
    v_C, v_R = x - C, x - R
    s = cfg_zero_star_scale(v_C.flatten(1), v_R.flatten(1)).view(-1, 1, 1, 1)
    actual = formulas.zero_star(C - R, x, C)
    torch.testing.assert_close(actual, s * v_R - v_C, rtol=1e-5, atol=1e-5)


def test_zero_star_and_comfyui_differ_by_the_latent_alone(comfy_nodes, formulas, hung):
    """ComfyUI multiplies the denoised prediction with the scale that it finds on velocities.

    So its reference is s* · R, and ours, as in the paper, s* · R + (1 − s*) · x.
    """
    C, R, x = predictions(count=3)
    g = 7.5
    arguments = {
        "cond_scale": g,
        "input": x,
        "cond_denoised": C,
        "uncond_denoised": R,
        "denoised": core_cfg(C, R, g),
    }
    core = hung("CFGZeroStar")(arguments)
    s = sys.modules[comfy_nodes["CFGZeroStar"].__module__].optimized_scale(x - C, x - R)
    actual = formulas.add_push(C, formulas.zero_star(C - R, x, C), g - 1)
    torch.testing.assert_close(actual, core - (g - 1) * (1 - s) * x)


# Perp-Neg


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("scale", [0.5, 7.5])
def test_perp_neg_of_comfyui(scale, weight, monkeypatch, comfy_nodes, formulas):
    """Its guider on a batch of one, as it takes its projection over the whole batch."""
    C, N, U = predictions((1, 4, 16, 32), count=3)
    guider_class = sys.modules[comfy_nodes["PerpNegGuider"].__module__].Guider_PerpNeg
    guider = guider_class(SimpleNamespace(model_options={}))
    guider.set_cfg(scale, weight)
    guider.inner_model, guider.conds = None, {}
    monkeypatch.setattr("comfy.samplers.calc_cond_batch", lambda model, conds, *args: [C, N, U])
    expected = guider.predict_noise(C, torch.ones(1))
    shaped = formulas.perp_neg(C - N, C, U, scale - 1, weight)
    torch.testing.assert_close(formulas.add_push(C, shaped, scale - 1), expected)


# Frequency-decoupled guidance


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("low", "high"), [(5.0, 10.0), (3.0, 0.5)])
def test_frequencies_of_diffusers(low, high, levels, formulas):
    """Its levels are the fine ones and one coarse one; ours share a factor."""
    C, R = predictions()
    guidance = FrequencyDecoupledGuidance(
        guidance_scales=[high] * levels + [low], use_original_formulation=True
    )
    expected = guidance.forward(C, R).pred
    actual = formulas.add_push(C, formulas.frequencies(C - R, low, high, levels), 1.0)
    torch.testing.assert_close(actual, expected)
