"""Models that are compiled by ComfyUI's TorchCompileModel, and how they are made worse."""

import os
import shutil
import sysconfig
from contextlib import ExitStack
from pathlib import Path

import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.mmdit
import pytest
import torch

from support.rig import Run, add_weights, close
from support.small_models import conditionings, sd3
from support.weakening import CAN_REPLACE

WEAK = {
    "Attention": {"mode": "identity", "strength": 0.5, "blocks": "1-2"},
    "BySkippingBlocks": {"blocks": "1"},
    "Tokens": {"strength": 0.5, "seed": 3, "blocks": "1"},
    "ByNoisyClock": {"strength": 2.0, "power": 0.5, "seed": 3},
    "WithDropout": {"rate": 0.2, "seed": 3, "blocks": "1-2"},
    "WithNoise": {"amount": 0.2, "seed": 3, "blocks": "1"},
    "WithFewerBits": {"bits": 3, "blocks": "1"},
    "WithLowRank": {"keep": 0.3, "blocks": "1"},
    "Lora": {"keep": 0.0},
    "AgainstBase": {"amount": 1.0},
}


class Compiler:
    """A backend like "eager" that counts what it is asked to compile."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs, **_):
        self.count += 1
        return graph.forward


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield Compiler()
    torch._dynamo.reset()


@pytest.fixture
def main(monkeypatch):
    """A small model in one graph, as on a GPU: on a CPU, attention asks for free memory."""
    plain = comfy.ldm.modules.attention.attention_pytorch
    monkeypatch.setattr(comfy.ldm.modules.diffusionmodules.mmdit, "optimized_attention", plain)
    return sd3(0)


@pytest.fixture
def weaken(node, main):
    def weaken(name, model):
        if name == "Attention" and not CAN_REPLACE:
            pytest.skip("this ComfyUI lets nobody replace the attention of transformers")
        inputs = WEAK[name] | ({"base_model": main} if name == "AgainstBase" else {})
        return node(f"BadVersionWeaken{name}", model=model, **inputs)

    return weaken


@pytest.fixture
def compiled(node, compiler):
    return lambda model: node("TorchCompileModel", model=model, backend=compiler)


def sampled(run, guider, compiler):
    """The latent, and how often something had been compiled after each step."""
    counts = []
    latent = run.sample(guider, callback=lambda *_: counts.append(compiler.count))
    return latent, counts


def weak_inputs(weaken, name, main):
    model = add_weights(main) if name in ("Lora", "AgainstBase") else main
    positive, negative = conditionings
    prompts = {"positive": positive, "negative": negative}
    return model, prompts, weaken(name, model)


@pytest.mark.parametrize("name", WEAK)
def test_compiled_before_it_is_weakened(name, compiler, compiled, weaken, main, guide):
    """The prediction is that of no compiling, and all of it takes place at the first step."""
    run = Run.of(main, steps=4, shape=(1, 16, 8, 8))
    model, prompts, weak = weak_inputs(weaken, name, main)
    expected = run.sample(guide(model=model, **prompts, weak_model=weak))
    fast = compiled(model)
    guider = guide(model=fast, **prompts, weak_model=weaken(name, fast))
    latent, counts = sampled(run, guider, compiler)
    assert close(latent, expected)
    assert 0 < counts[0] == counts[-1] <= 2
    again, counts = sampled(run, guider, compiler)
    assert torch.equal(again, latent) and counts[0] == counts[-1] <= 2


def test_compiled_behind_the_weakening(compiler, compiled, weaken, main, guide):
    run = Run.of(main, steps=4, shape=(1, 16, 8, 8))
    model, prompts, weak = weak_inputs(weaken, "Tokens", main)
    expected = run.sample(guide(model=model, **prompts, weak_model=weak))
    guider = guide(model=compiled(model), **prompts, weak_model=compiled(weak))
    latent, counts = sampled(run, guider, compiler)
    assert close(latent, expected)
    assert counts == [1] * 4


def test_passes_that_overlap_leave_compiling_as_it_was(compiler, pack):
    """As those on two devices do: PyTorch keeps one stance for all threads."""
    add_one = torch.compile(lambda x: x + 1, backend=compiler)
    one, other = ExitStack(), ExitStack()
    for each in (one, other):
        each.enter_context(pack.guiders.weaken.passes.nothing_compiled)
    one.close()
    assert add_one(torch.zeros(2)).sum() == 2 and compiler.count == 0
    other.close()
    assert add_one(torch.zeros(2)).sum() == 2 and compiler.count == 1


def test_with_inductor(node, compiler, weaken, main, guide, monkeypatch, tmp_path):
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which("g++") is None or not headers.is_file():
        missing = "inductor needs a compiler of C++ and the headers of Python"
        (pytest.fail if os.environ.get("BVG_REQUIRE_ALL") == "1" else pytest.skip)(missing)
    # Of a run that was stopped half way, a shared cache keeps broken files.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    run = Run.of(main, steps=2, shape=(1, 16, 8, 8))
    model, prompts, weak = weak_inputs(weaken, "BySkippingBlocks", main)
    expected = run.sample(guide(model=model, **prompts, weak_model=weak))
    fast = node("TorchCompileModel", model=model, backend="inductor")
    latent = run.sample(guide(model=fast, **prompts, weak_model=weaken("BySkippingBlocks", fast)))
    assert close(latent, expected, 1e-4)
