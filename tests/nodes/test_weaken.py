"""Any settings of any Weaken node, on any architecture: a finite image, or a clear error."""

import logging
import math
import random
from dataclasses import dataclass
from typing import Any

import comfy.ldm.modules.attention
import pytest
import torch

from support.rig import Run, add_weights, call
from support.small_models import ARCHITECTURES, BY_NAME, Architecture
from support.text_encoders import text_encoder

NODES = [
    *(
        "BadVersionWeakenAgainstBase",
        "BadVersionWeakenLora",
        "BadVersionWeakenWithNoise",
        "BadVersionWeakenWithFewerBits",
    ),
    *(
        "BadVersionWeakenWithLowRank",
        "BadVersionWeakenWithDropout",
        "BadVersionWeakenAttention",
        "BadVersionWeakenBySkippingBlocks",
    ),
    *("BadVersionWeakenTokens", "BadVersionWeakenByNoisyClock", "BadVersionWeakenPrompt"),
]
DRAWS, SAMPLED = 300, 14  # per node

BLOCKS = [
    *(
        "auto",
        "all",
        "middle",
        "input 1",
        "input 3-5",
        "output 0-2",
        "d0",
        "u0-1",
        "m0",
        "middle.0",
    ),
    *("0", "1", "1, 2", "double 1", "double 0-1, single 2", "joint 1", "layers 2", "block 0-3"),
    *("transformer_blocks 1", "noise_refiner 0", "auto, 2", "  DOUBLE_BLOCKS 1 ; single 0,"),
]
BROKEN_BLOCKS = [
    *("", " ", ",", "none", "99", "double 99", "input 3-1", "1-", "all 1", "7 8 9", "input 1.7"),
    *("single.0", "middel", "-1", "0x1", "1e3", "\x00", "é", "9" * 5000, "double [1]", "None"),
]


@dataclass(frozen=True)
class Setting:
    """What one draw has put into a node."""

    node: str
    architecture: Architecture
    inputs: dict[str, Any]
    in_bounds: bool

    def __str__(self):
        plain = {k: v for k, v in self.inputs.items() if isinstance(v, str | int | float)}
        return f"{self.node} on {self.architecture.name}: {plain}"


@pytest.fixture(scope="module")
def models():
    """Two models of each architecture."""
    built = {}

    def model(architecture, seed=0):
        if (architecture.name, seed) not in built:
            built[architecture.name, seed] = architecture.build(seed)
        return built[architecture.name, seed]

    return model


@pytest.fixture
def draw(request, comfy_nodes, models):
    """Draw settings for a node; the same ones in every run."""
    draw = random.Random(request.node.name)

    def number(widget):
        """In three of four cases one that the widget lets through."""
        inside = [draw.uniform(widget.min, widget.max), widget.min, widget.max, widget.default]
        outside = [
            *(widget.min - 1, widget.max + 1, -1e30, 1e30),
            *([math.nan, math.inf, -math.inf] if widget.io_type == "FLOAT" else []),
        ]
        value = draw.choice(inside if draw.random() < 0.75 else outside)
        return int(value) if widget.io_type == "INT" else value

    def value(widget, architecture):
        model = models(architecture)
        if widget.io_type == "MODEL" and widget.id == "model":
            return draw.choice([model, add_weights(model)])
        if widget.io_type == "MODEL":
            other = models(draw.choice(ARCHITECTURES))
            return draw.choice([models(architecture, 1), add_weights(model), model, other])
        if widget.io_type == "CONDITIONING":
            return conditioning(draw, architecture)
        if widget.io_type == "CLIP":
            return None
        if widget.io_type == "COMBO":
            return draw.choice([*widget.options, *widget.options, "nonsense", ""])
        if widget.id == "text":
            return draw.choice(["", "", "a fox"])
        if widget.io_type == "STRING":
            return draw.choice(draw.choice([BLOCKS, BLOCKS, BROKEN_BLOCKS]))
        if widget.id == "seed":
            return draw.choice([0, 1, 2**32, widget.max, draw.randint(0, widget.max)])
        return number(widget)

    def fits(widget, value):
        if widget.io_type == "COMBO":
            return value in widget.options
        return widget.io_type not in ("FLOAT", "INT") or widget.min <= value <= widget.max

    def setting(node):
        architecture = draw.choice(ARCHITECTURES)
        widgets = comfy_nodes[node].define_schema().inputs
        inputs = {w.id: value(w, architecture) for w in widgets}
        in_bounds = all(fits(w, inputs[w.id]) for w in widgets)
        return Setting(node, architecture, inputs, in_bounds)

    return setting


def conditioning(draw, architecture):
    """A prompt, two of them, one that says nothing, or what is no prompt at all."""
    ((context, extras),) = architecture.conditioning(1)
    return draw.choice(
        [
            [[context, extras]],
            [[context, extras], [context.flip(1), extras]],
            [[torch.zeros_like(context), {}]],
            [[context[:, :1], {"pooled_output": None}]],
            [[context[0], extras]],
            [[None, extras]],
            [],
        ]
    )


@pytest.fixture
def execute(comfy_nodes, pack):
    """Execute a node with a setting; None where it was refused with words to the artist."""

    def execute(setting):
        try:
            return call(comfy_nodes[setting.node], **setting.inputs)[0]
        except pack.guiders.errors.GuidanceError as error:
            name = comfy_nodes[setting.node].define_schema().display_name
            assert str(error).startswith(f"{name}, input '"), setting
            assert "Expected " in str(error), setting
            return None
        except Exception as error:
            raise AssertionError(f"{setting} gave {type(error).__name__}: {error}") from error

    return execute


@pytest.mark.parametrize("node", NODES)
def test_any_setting_is_taken_or_refused(node, draw, execute):
    taken = 0
    for _ in range(DRAWS):
        setting = draw(node)
        if execute(setting) is not None:
            taken += 1
            assert setting.in_bounds, f"{setting} is out of bounds"
    # The oldest release of ComfyUI lets BadVersionWeakenAttention be used on U-Nets alone.
    assert 0.02 * DRAWS < taken < 0.95 * DRAWS


@pytest.mark.parametrize("node", NODES)
def test_any_setting_that_is_taken_gives_a_finite_picture(
    node, draw, execute, comfy_nodes, models, pack
):
    """Or says why not, as where a block is not reached, before the first step is done."""
    sampled = finite = 0
    while sampled < SAMPLED:
        setting = draw(node)
        weak = execute(setting)
        if weak is None:
            continue
        sampled += 1
        architecture = setting.architecture
        given = {"weak_positive" if node == "BadVersionWeakenPrompt" else "weak_model": weak}
        model = models(architecture)
        positive = architecture.conditioning(1)
        scales = {"cfg": 1.0, "weak_scale": 2.0}
        run = Run.of(model, shape=(1, *architecture.latent[1:]), steps=1)
        try:
            (guider,) = call(
                comfy_nodes["BadVersionGuider"], model=model, positive=positive, **scales, **given
            )
            latent = run.sample(guider)
        except pack.guiders.errors.GuidanceError as error:
            # The guider puts words to whatever comes out of a first weak pass.
            assert error.__cause__ is None or node == "BadVersionWeakenPrompt", setting
            continue
        except Exception as error:
            raise AssertionError(f"{setting} gave {type(error).__name__}: {error}") from error
        assert latent.isfinite().all(), setting
        finite += 1
    assert finite > SAMPLED / 3


def test_every_node_works_with_all_its_inputs_as_they_come(comfy_nodes, models):
    """On a model with a LoRA, which each of them needs or does not mind."""
    for name in ("sd15", "sd3"):
        architecture = BY_NAME[name]
        model = add_weights(models(architecture))
        for node in NODES:
            widgets = comfy_nodes[node].define_schema().inputs
            inputs = {w.id: w.default for w in widgets if getattr(w, "default", None) is not None}
            inputs["model"] = model
            if node == "BadVersionWeakenAgainstBase":
                inputs["base_model"] = models(architecture)
            if node == "BadVersionWeakenPrompt":
                del inputs["model"]
                inputs["conditioning"] = architecture.conditioning(1)
            if node == "BadVersionWeakenAttention" and not can_weaken_attention(name):
                continue
            assert call(comfy_nodes[node], **inputs)[0] is not None


def can_weaken_attention(name):
    return name == "sd15" or hasattr(comfy.ldm.modules.attention, "wrap_attn")


@pytest.fixture
def weaken_prompt(comfy_nodes):
    def weaken_prompt(conditioning, mode="content", amount=1.0, seed=0, **rest):
        node = comfy_nodes["BadVersionWeakenPrompt"]
        return call(node, conditioning=conditioning, mode=mode, amount=amount, seed=seed, **rest)[0]

    return weaken_prompt


def test_content_of_a_prompt_from_nodes(comfy_nodes, weaken_prompt, pack, caplog, monkeypatch):
    shown = []
    monkeypatch.setattr(pack.nodes.weaken, "progress_text", lambda node: shown.append)
    clip = text_encoder("sdxl")
    text = "a (red:1.2) fox"
    (positive,), (empty,) = (
        comfy_nodes["CLIPTextEncode"]().encode(clip, said) for said in (text, "")
    )
    with caplog.at_level(logging.INFO):
        [[weak, extras]] = weaken_prompt(positive, empty=empty, clip=clip, text=text)
    expected = positive[0][0].clone()
    expected[:, 1:4] = empty[0][0][:, 1:4]
    assert torch.equal(weak, expected)
    assert torch.equal(extras["pooled_output"], positive[0][1]["pooled_output"])
    assert shown == ['replaced 3 of 77 tokens: "a", "red", "fox"']
    assert f"Weaken Prompt: {shown[0]}." in caplog.text
    # Without the encoder all of them are words.
    [[weak, _]] = weaken_prompt(positive, empty=empty)
    assert torch.equal(weak, empty[0][0])


def test_content_says_what_is_missing(weaken_prompt, pack):
    positive = BY_NAME["sd15"].conditioning(1)
    error = pack.guiders.errors.GuidanceError
    with pytest.raises(error, match="Weaken Prompt, input 'empty': got nothing"):
        weaken_prompt(positive)
    with pytest.raises(error, match="Weaken Prompt, input 'clip': got nothing, with a prompt"):
        weaken_prompt(positive, empty=BY_NAME["sd15"].conditioning(2), text="a fox")


def test_other_modes_do_without_what_is_for_content(weaken_prompt):
    positive, other = (BY_NAME["sd15"].conditioning(seed) for seed in (1, 2))
    plain = weaken_prompt(positive, mode="drop", amount=0.5)
    connected = weaken_prompt(positive, mode="drop", amount=0.5, empty=other, text="a fox")
    assert torch.equal(plain[0][0], connected[0][0])
