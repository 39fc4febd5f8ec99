"""Small models, and the nodes that weaken them."""

import sys

import pytest
import torch


@pytest.fixture(scope="module")
def models():
    """One small model of each architecture, which no test changes."""
    built = {}

    def model(architecture):
        if architecture.name not in built:
            built[architecture.name] = architecture.build(0)
        return built[architecture.name]

    return model


@pytest.fixture
def model(architecture, models):
    return models(architecture)


@pytest.fixture(scope="module")
def weaken(comfy_nodes):
    """Execute one of the nodes."""
    # ComfyUI can be imported only once pytest is configured, which may be after this is read.
    from support.rig import call
    from support.weakening import NODES, WITHOUT_BLOCKS

    def weaken(kind, model, blocks="auto", **changed):
        node, inputs = NODES[kind]
        chosen = {} if kind in WITHOUT_BLOCKS else {"blocks": blocks}
        inputs = {**inputs, **chosen, **changed}
        return call(comfy_nodes[node], model=model, **inputs)[0]

    return weaken


@pytest.fixture(scope="module")
def error(pack):
    return pack.guiders.errors.GuidanceError


@pytest.fixture
def isolated(monkeypatch):
    """No token of any transformer learns of another one."""
    from support.weakening import own_values

    for module in [m for name, m in sys.modules.items() if name.startswith("comfy.ldm.")]:
        for name in ("optimized_attention", "optimized_attention_masked"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, own_values)
        if hasattr(module, "optimized_attention_for_device"):
            monkeypatch.setattr(module, "optimized_attention_for_device", lambda _: own_values)


@pytest.fixture
def seen(monkeypatch, pack):
    """What would have been weakened: sequences with the span that is the image's, and its grid.

    None of it is weakened, so that tokens keep their places.
    """
    sequences = []

    def shuffled_order(x, span, share, generator):
        sequences.append((x.clone(), span, None))
        return torch.arange(x.shape[1])[None]

    def blurred_attention(q, k, v, span, grid, *_):
        # Values depend on nothing but the token; there is one for each of its heads.
        sequences.append((v.transpose(1, 2).flatten(2), span, grid))
        return v

    monkeypatch.setattr(pack.guiders.weaken.perturbations, "shuffled_order", shuffled_order)
    monkeypatch.setattr(pack.guiders.weaken.perturbations, "blurred_attention", blurred_attention)
    return sequences
