"""The small models are fit to test with: alive, and each part of them shows in the prediction."""

import sys
from contextlib import contextmanager

import pytest
import torch

from support.rig import Run, core_guider, record
from support.small_models import ARCHITECTURES, TEXT_TOKENS


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda architecture: architecture.name)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def model(architecture):
    return architecture.build(0)


@pytest.fixture
def run(architecture, model):
    return Run.of(model, shape=architecture.latent, steps=2)


@pytest.fixture
def recording(architecture, model, run):
    recorded, recording = record(model)
    run.sample(core_guider(recorded, architecture.conditioning(1)))
    return recording


@pytest.fixture
def change(architecture, model, run, recording):
    """How far the first prediction is, relatively, from that of the model as it was built."""

    def change(seed=1):
        actual = run.replay(core_guider(model, architecture.conditioning(seed)), recording)[0]
        return distance(actual, recording.denoised[0]).item()

    assert change() == 0
    return change


def distance(actual, expected):
    return (actual - expected).norm() / expected.norm()


@contextmanager
def without_weights(module):
    """The module with all weights zero, which for a block with a skip connection is nothing."""
    weights = [(parameter, parameter.data) for parameter in module.parameters()]
    assert weights
    for parameter, data in weights:
        parameter.data = torch.zeros_like(data)
    try:
        yield
    finally:
        for parameter, data in weights:
            parameter.data = data


def test_it_samples_something(architecture, model, run, recording):
    for x, sigma, denoised in zip(recording.x, recording.sigma, recording.denoised, strict=True):
        assert denoised.isfinite().all()
        direction = (x - denoised) / sigma.view(-1, *[1] * (x.ndim - 1))
        for spread in direction.std(dim=tuple(range(2, x.ndim))).flatten():
            assert 0.05 < spread < 20

    sample = run.sample(core_guider(model, architecture.conditioning(1)))
    assert sample.shape == run.latent.shape and sample.isfinite().all()
    for other in (
        run.sample(core_guider(model, architecture.conditioning(2))),
        run.with_(seed=8).sample(core_guider(model, architecture.conditioning(1))),
        sample.flip(0),
    ):
        assert distance(other, sample) > 0.01


def test_the_prompt_matters(change):
    assert change(seed=2) > 0.01


def test_every_block_matters(architecture, model, change):
    for name in architecture.blocks:
        blocks = model.model.diffusion_model.get_submodule(name)
        assert len(blocks) >= 3
        for index, block in enumerate(blocks):
            with without_weights(block):
                assert change() > 0.001, f"{name}.{index}"
    assert change() == 0


def test_attention_among_the_image_matters(monkeypatch, change):
    for module in [m for name, m in sys.modules.items() if name.startswith("comfy.ldm.")]:
        for name in ("optimized_attention", "optimized_attention_masked"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, even_attention(getattr(module, name)))
    assert change() > 0.01


def even_attention(attention):
    """Attention that looks everywhere alike, but not from image to text or within the text."""

    def even(q, k, v, heads, *args, **kwargs):
        if q.shape[-2] != k.shape[-2] or q.shape[-2] == TEXT_TOKENS:
            return attention(q, k, v, heads, *args, **kwargs)
        return attention(torch.zeros_like(q), k, v, heads, *args, **kwargs)

    return even
