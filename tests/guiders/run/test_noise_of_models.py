"""Percents and sigmas as ComfyUI's models have them, and the schedules that go by them."""

import inspect

import comfy.model_sampling
import comfy_extras.nodes_model_advanced
import pytest
import torch

# Every way in which ComfyUI's models go from percent to sigma.
SAMPLINGS = {
    name: kind
    for module in (comfy.model_sampling, comfy_extras.nodes_model_advanced)
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, torch.nn.Module) and hasattr(kind, "percent_to_sigma")
}
# No model is of this kind, and from any percent it comes to an endless sigma or to 1.
del SAMPLINGS["ModelSamplingDiscreteEDM"]
SAMPLINGS["zero terminal SNR"] = lambda: comfy.model_sampling.ModelSamplingDiscrete(zsnr=True)


def shifted_flow():
    sampling = comfy.model_sampling.ModelSamplingDiscreteFlow()
    sampling.set_parameters(shift=8.0)
    return sampling


SAMPLINGS["shifted flow"] = shifted_flow


@pytest.fixture(scope="module")
def schedules(pack):
    return pack.guiders.push.schedules


@pytest.fixture(params=SAMPLINGS, scope="module")
def real_noise(request, pack):
    """As a kind of ComfyUI's models has it."""
    sampling = SAMPLINGS[request.param]()
    return pack.guiders.push.noise.Noise(
        False, sampling.percent_to_sigma, sigmas=(float(sampling.sigma_max), 0.0)
    )


def as_comfyui_has_it(sigma):
    """In 32 bits."""
    return float(torch.tensor(sigma, dtype=torch.float32))


def test_all_kinds_of_models_are_here():
    assert {
        "ModelSamplingDiscrete",
        "ModelSamplingDiscreteFlow",
        "ModelSamplingDiscreteDistilled",
        "ModelSamplingContinuousEDM",
        "ModelSamplingContinuousV",
        "ModelSamplingFlux",
        "StableCascadeSampling",
        "ModelSamplingCosmosRFlow",
    } <= set(SAMPLINGS)


@pytest.mark.parametrize("percent", [0.05, 0.25, 0.5, 0.8, 0.95])
def test_percent_of_a_sigma_is_where_it_came_from(percent, real_noise):
    sigma = as_comfyui_has_it(float(real_noise.percent_to_sigma(percent)))
    assert real_noise.percent_of(sigma) == pytest.approx(percent, abs=1e-4)


def test_percent_at_the_ends_of_a_run(real_noise):
    assert real_noise.percent_of(real_noise.sigmas[0]) < 1e-3
    assert real_noise.percent_of(0.0) > 1 - 1e-6


@pytest.mark.parametrize("percent", [0.1, 0.3, 0.5, 0.77])
def test_interval_of_a_real_model_begins_at_the_step_it_names(percent, schedules, real_noise):
    sigma = as_comfyui_has_it(float(real_noise.percent_to_sigma(percent)))
    from_here = schedules.Interval(percent, 1.0, False)
    until_here = schedules.Interval(0.0, percent, False)
    first = real_noise.sigmas[0]
    assert [from_here.factor(s, real_noise) for s in (first, sigma, sigma / 2)] == [0.0, 1.0, 1.0]
    assert [until_here.factor(s, real_noise) for s in (first, sigma, sigma / 2)] == [1.0, 0.0, 0.0]


def test_interval_of_all_is_always_on(schedules, real_noise):
    interval = schedules.Interval(0.0, 1.0, False)
    for sigma in (real_noise.sigmas[0], 0.5, 1e-3):
        assert interval.factor(sigma, real_noise) == 1.0


def test_ramp_goes_over_the_run_of_every_model(schedules, real_noise):
    ramp = schedules.Ramp("rising", "cosine", 0.0, 1.0, 0.0, 1.0, 2.0)
    half = as_comfyui_has_it(float(real_noise.percent_to_sigma(0.5)))
    factors = [ramp.factor(sigma, real_noise) for sigma in (real_noise.sigmas[0], half, 0.0)]
    assert factors == pytest.approx([0.0, 0.5, 1.0], abs=1e-3)
