"""A network that keeps something of one pass for the next, by the prompt and not by its weights."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from support.rare_models import EVERY_BY_NAME
from support.rig import call, close, core_guider, record
from support.weakening import NODES, distance, one_step

WEAK_SCALE = 2.5
KINDS = {
    "noise": ("BadVersionWeakenWithNoise", {"amount": 0.3, "seed": 3, "blocks": "all"}),
    **{kind: NODES[kind] for kind in ("dropout", "skip")},
}


class Keeping(torch.nn.Module):
    """Reads a prompt once and keeps what it has read of it on the network."""

    def __init__(self, reader, network):
        super().__init__()
        self.reader = reader
        object.__setattr__(self, "network", network)

    def forward(self, prompt):
        for seen, read in self.network.kept:
            if seen.shape == prompt.shape and torch.equal(seen, prompt):
                return read
        read = self.reader(prompt)
        self.network.kept = [*self.network.kept, (prompt.clone(), read)]
        return read


@pytest.fixture
def keeper(request, pack, monkeypatch):
    """An architecture, a model of it, and what lets the model forget."""
    if request.param == "hidream_o1":
        architecture = EVERY_BY_NAME["hidream_o1"]
        model = architecture.build(0)
        return architecture, model, model.model.diffusion_model.clear_kv_cache
    architecture = EVERY_BY_NAME["pixart"]
    model = architecture.build(0)
    network = model.model.diffusion_model
    network.kept = []
    attention = network.blocks[2].cross_attn
    attention.kv_linear = Keeping(attention.kv_linear, network)
    table = pack.guiders.weaken.network
    row = replace(table.architecture_of(network), state=("kept",))
    monkeypatch.setattr(table, "TABLE", (row, *table.TABLE))
    return architecture, model, partial(setattr, network, "kept", [])


each_keeper = pytest.mark.parametrize(
    "keeper", [name for name in ("hidream_o1", "pixart") if name in EVERY_BY_NAME], indirect=True
)


def two_steps(architecture, model):
    run = one_step(architecture, model)
    return run.with_(sigmas=torch.tensor([run.sigmas[0], run.sigmas[0] / 2, 0.0]))


def predictions(run, recording, model, prompt, forget):
    """What a model predicts by itself, with nothing kept from before."""
    forget()
    predicted = run.replay(core_guider(model, prompt), recording)
    forget()
    return predicted


@each_keeper
@pytest.mark.parametrize("kind", KINDS)
def test_closed_form(keeper, kind, comfy_nodes, guide):
    architecture, model, forget = keeper
    node, inputs = KINDS[kind]
    weak = call(comfy_nodes[node], model=model, **{"blocks": "auto", **inputs})[0]
    positive = architecture.conditioning(1)
    run = two_steps(architecture, model)
    forget()
    recorded, recording = record(model)
    run.sample(guide(model=recorded, positive=positive, weak_model=weak, weak_scale=WEAK_SCALE))
    main = predictions(run, recording, model, positive, forget)
    bad = predictions(run, recording, weak, positive, forget)
    for guided, c, r in zip(recording.denoised, main, bad, strict=True):
        assert distance(r, c) > 1e-3
        assert close(guided, c + (WEAK_SCALE - 1) * (c - r), 1e-5)


@each_keeper
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_as_before(keeper, kind, comfy_nodes, guide):
    """What the weak version has read of the prompt is not what the model reads in it."""
    architecture, model, forget = keeper
    node, inputs = KINDS[kind]
    weak = call(comfy_nodes[node], model=model, **{"blocks": "auto", **inputs})[0]
    positive = architecture.conditioning(1)
    run = two_steps(architecture, model)
    forget()
    plain = run.sample(core_guider(model, positive))
    again = run.sample(core_guider(model, positive))
    forget()
    run.sample(guide(model=model, positive=positive, weak_model=weak))
    assert torch.equal(run.sample(core_guider(model, positive)), again)
    if kind != "noise":  # of which ComfyUI itself leaves what it has read
        forget()
        run.sample(core_guider(weak, positive))
        assert torch.equal(run.sample(core_guider(model, positive)), plain)
