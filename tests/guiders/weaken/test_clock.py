"""The noise on what a network is told about the noise level, against the formula of its paper."""

import math

import comfy.model_sampling
import pytest
import torch

from support.rare_models import EVERY_BY_NAME
from support.rig import Run, core_guider
from support.small_models import BY_NAME, sd3
from support.weakening import distance, one_step, predict

STRENGTH, POWER, SEED = 2.0, 0.5, 3  # as support.weakening has them

# The module that embeds the noise level, written down once more.
CLOCKS = {
    "sd15": ["time_embed"],
    "sd3": ["t_embedder"],
    "flux": ["time_in"],
    "chroma": ["distilled_guidance_layer.in_proj"],
    "qwen_image": ["time_text_embed.timestep_embedder"],
    "wan": ["time_embedding"],
    "ltxv": ["adaln_single.emb"],
    "cosmos": ["t_embedder.1"],
    "ace_step15": ["decoder.time_embed.linear_2"],
}


def time_shown(model, sigma):
    """Of 1000 noise levels the nearest one, from 0 to 1; for flow models sigma itself.

    For EDM models, which are told the logarithm of sigma, how far that is from its least.
    """
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.ModelSamplingContinuousEDM):
        least, most = float(sampling.sigma_min), float(sampling.sigma_max)
        return math.log(sigma / least) / math.log(most / least)
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
        return sigma
    levels = sampling.sigmas.double().log()
    return int((levels - math.log(sigma)).abs().argmin()) / (len(levels) - 1)


def disturbed(embedding, t, generator):
    exact = embedding.double()
    n = torch.randn(embedding.shape[-1], generator=generator).double()
    mean = exact.mean(-1, keepdim=True)
    deviation = ((exact - mean).square().sum(-1, keepdim=True) / (exact.shape[-1] - 1)).sqrt()
    return (exact + STRENGTH * t**POWER * deviation * n).to(embedding.dtype)


@pytest.mark.parametrize("name", [name for name in CLOCKS if name in EVERY_BY_NAME])
def test_embedding_is_that_of_the_formula(name, weaken, models, pack):
    architecture = EVERY_BY_NAME[name]
    model = models(architecture)
    sigma = float(one_step(architecture, model).sigmas[0])
    t = time_shown(model, sigma)
    generator_for = pack.guiders.weaken.perturbations.generator_for
    handles = []

    def behind(path):
        def hook(_, __, out):
            if isinstance(out, torch.Tensor):
                return disturbed(out, t, generator_for("cpu", SEED, sigma, path))
            return tuple(
                disturbed(each, t, generator_for("cpu", SEED, sigma, path, i))
                for i, each in enumerate(out)
            )

        return hook

    network = model.model.diffusion_model
    for path in CLOCKS[name]:
        handles.append(network.get_submodule(path).register_forward_hook(behind(path)))
    expected = predict(architecture, model)
    for handle in handles:
        handle.remove()
    assert distance(expected, predict(architecture, model)) > 1e-3
    assert distance(predict(architecture, weaken("clock", model)), expected) < 1e-6


@pytest.fixture
def asked(pack, monkeypatch):
    """The seed and the amount of all noise that is asked for, of which none comes."""
    seeds, amounts = [], []

    def noisy_embedding(embedding, amount, generator):
        seeds.append(generator.initial_seed())
        amounts.append(amount)
        return embedding

    monkeypatch.setattr(pack.guiders.weaken.perturbations, "noisy_embedding", noisy_embedding)
    return seeds, amounts


def test_embedding_of_several_parts(weaken, models, asked):
    """Cosmos has one for the modulation, and one that is added to it; LTX-2 has eight clocks."""
    seeds, _ = asked
    for name, count in (("cosmos", 2), ("ltx_av", 6)):
        if name in EVERY_BY_NAME:
            architecture = EVERY_BY_NAME[name]
            model = models(architecture)
            seeds.clear()
            assert (
                distance(
                    predict(architecture, weaken("clock", model)), predict(architecture, model)
                )
                < 1e-6
            )
            assert len(set(seeds)) == len(seeds) == count


def test_noise_is_new_at_each_step_and_fades_with_the_noise_level(weaken, models, asked):
    seeds, amounts = asked
    architecture = BY_NAME["sd3"]
    model = models(architecture)
    run = Run.of(model, shape=architecture.latent, steps=3)
    for power in (0.25, 0.0):
        seeds.clear()
        amounts.clear()
        run.sample(core_guider(weaken("clock", model, power=power), architecture.conditioning(1)))
        assert len(set(seeds)) == len(seeds) == 3
        expected = [STRENGTH * sigma**power for sigma in run.sigmas[:-1].tolist()]
        assert amounts == pytest.approx(expected)


def test_what_a_clock_shows(pack):
    """0 to 1, whatever ComfyUI tells the network of a noise level."""
    time_of = pack.guiders.models.time_of
    sampling = comfy.model_sampling

    flow = sampling.ModelSamplingDiscreteFlow()
    flow.set_parameters(shift=3.0, multiplier=1000)
    for sigma in (1.0, 0.7, 0.01):
        assert time_of(flow, sigma) == pytest.approx(sigma)
        assert time_of(sampling.ModelSamplingFlux(), sigma) == pytest.approx(sigma)

    discrete = sampling.ModelSamplingDiscrete()
    for index in (0, 1, 500, 999):
        assert time_of(discrete, float(discrete.sigmas[index])) == pytest.approx(index / 999)

    # A logarithm of sigma, from 0.002 to 120.
    edm = sampling.ModelSamplingContinuousEDM()
    for share in (0.0, 0.3, 1.0):
        assert time_of(edm, 0.002 * (120.0 / 0.002) ** share) == pytest.approx(share, abs=1e-5)
    assert time_of(edm, 1e-9) == 0.0 and time_of(edm, 1e9) == 1.0


def test_clock_that_is_not_asked_is_an_error(weaken, error, pack, monkeypatch):
    network = pack.guiders.weaken.network.Network
    monkeypatch.setattr(network, "clocks", {"time_embed": torch.nn.Identity()})
    model = sd3(0)
    with pytest.raises(error, match=r"Noisy Clock, input 'model': got .*no effect"):
        predict(BY_NAME["sd3"], weaken("clock", model))
