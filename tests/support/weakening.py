"""All ways to weaken a pass of a network, on all architectures that can be weakened so."""

from __future__ import annotations

from typing import Any

import comfy.ldm.modules.attention
import comfy.ldm.wan.model
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from support.rig import Conditioning, Run, core_guider, record
from support.small_models import ARCHITECTURES, Architecture

UNETS = ("sd15", "sdxl")
CAN_REPLACE = hasattr(comfy.ldm.modules.attention, "wrap_attn")
# Releases after 0.3.75 hand their options to the attention of a Wan that goes by sound, too.
SOUND_IS_ASKED = (
    hasattr(comfy.ldm.wan.model, "WanModel_S2V")
    and "block_index" in comfy.ldm.wan.model.WanModel_S2V.forward_orig.__code__.co_consts
)

# Settings that are no defaults, so that one which is not passed on shows.
NODES = {
    "identity": ("BadVersionWeakenAttention", {"mode": "identity", "strength": 1.0}),
    "half identity": ("BadVersionWeakenAttention", {"mode": "identity", "strength": 0.5}),
    "blur": ("BadVersionWeakenAttention", {"mode": "blur", "strength": 0.8}),
    "window": ("BadVersionWeakenAttention", {"mode": "window", "strength": 0.8}),
    "skip": ("BadVersionWeakenBySkippingBlocks", {}),
    "tokens": ("BadVersionWeakenTokens", {"strength": 0.5, "seed": 3}),
    "clock": ("BadVersionWeakenByNoisyClock", {"strength": 2.0, "power": 0.5, "seed": 3}),
    "dropout": ("BadVersionWeakenWithDropout", {"rate": 0.2, "seed": 3}),
}
RANDOM = ("tokens", "clock", "dropout")
WITHOUT_BLOCKS = ("clock",)  # that an artist could choose


# No blocks that anything else can be done to than to their weights and activations.
OPAQUE = ("cascade_b", "cascade_c", "trellis2")
# No module of their own embeds the noise level.
WITHOUT_CLOCK = ("cascade_b", "cascade_c")
# Whose tokens are in rows and columns, in windows, or nowhere in particular.
WITHOUT_TOKENS = ("cosmos", "cosmos_predict2", "anima", "seed_vr2", "tripo_splat")
# To the attention of these ComfyUI hands no options, or it is one of another kind.
WITHOUT_ATTENTION = (
    *("pixart", "hunyuan_dit", "hunyuan_3d_2_1", "ace_step", "ace_step15", "ernie", "music3"),
    *("hidream_o1", "seed_vr2", "tripo_splat", "wan_animate2"),
)


def can_weaken(kind: str, architecture: Architecture) -> bool:
    """Whether ComfyUI lets this be done to that architecture."""
    name = architecture.name
    if kind == "clock":
        return name not in WITHOUT_CLOCK
    if name in OPAQUE:
        return kind == "dropout"
    if kind == "tokens":
        return name not in WITHOUT_TOKENS
    if NODES[kind][0] != "BadVersionWeakenAttention" or name in UNETS:
        return True
    if name == "wan_sound":
        return SOUND_IS_ASKED
    return CAN_REPLACE and name not in WITHOUT_ATTENTION


def each(pairs: list[tuple[Architecture, str]]) -> pytest.MarkDecorator:
    """Run a test for pairs of an architecture and a kind of weakening."""
    ids = [f"{architecture.name}-{kind}" for architecture, kind in pairs]
    return pytest.mark.parametrize(("architecture", "kind"), pairs, ids=ids)


ALL_PAIRS = [(architecture, kind) for architecture in ARCHITECTURES for kind in NODES]
POSSIBLE = [(a, kind) for a, kind in ALL_PAIRS if can_weaken(kind, a)]
IMPOSSIBLE = [(a, kind) for a, kind in ALL_PAIRS if not can_weaken(kind, a)]
TRANSFORMERS = [architecture for architecture in ARCHITECTURES if architecture.name not in UNETS]


def steps_of(architecture: Architecture, model: ModelPatcher, steps: int = 2) -> Run:
    """A run of some steps from nothing."""
    parts = [torch.zeros(shape) for shape in (architecture.latent, *architecture.beside)]
    run = Run.of(model, steps=steps)
    return run.with_(latent=parts[0] if len(parts) == 1 else together(*parts))


def one_step(architecture: Architecture, model: ModelPatcher, **rest: Any) -> Run:
    """A run of one step, from the middle of the noise and from an image, so that both are seen."""
    flow = model.get_model_object("model_sampling").noise_scaling(
        torch.full((1,), 0.5), torch.ones(1), torch.full((1,), 2.0)
    )
    sigma = 0.6 if float(flow) == 1.5 else 2.0
    shapes = (architecture.latent, *architecture.beside)
    parts = [torch.randn(shape, generator=torch.Generator().manual_seed(4)) for shape in shapes]
    return Run(
        parts[0] if len(parts) == 1 else together(*parts), torch.tensor([sigma, 0.0]), **rest
    )


def together(*parts: Tensor) -> Any:
    """A latent with sound or the like beside it."""
    from comfy.nested_tensor import NestedTensor  # not yet in the oldest release of ComfyUI

    return NestedTensor(parts)


def predict(
    architecture: Architecture,
    model: ModelPatcher,
    run: Run | None = None,
    positive: Conditioning | None = None,
) -> Tensor:
    """The model's first prediction in a run."""
    recorded, recording = record(model)
    run = one_step(architecture, model) if run is None else run
    run.sample(core_guider(recorded, positive or architecture.conditioning(1)))
    return recording.denoised[0]


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def own_values(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **_: Any,
) -> Tensor:
    """Attention in which each token sees only itself, so that what it holds stays its own."""
    # As MiniMax H3 hands them over.
    q, v = (t.take() if hasattr(t, "take") and not isinstance(t, Tensor) else t for t in (q, v))
    if not skip_reshape:
        q, v = (t.unflatten(2, (heads, t.shape[2] // heads)).transpose(1, 2) for t in (q, v))
    # Heads may share values.
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    out = v if v.shape[2] == q.shape[2] else torch.zeros_like(q)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def isolating(model: ModelPatcher) -> ModelPatcher:
    """The same through ComfyUI's patch point, on which the weakened attention stands, too."""
    isolated = model.clone()
    isolated.model_options["transformer_options"]["optimized_attention_override"] = (
        lambda _, *args, **kwargs: own_values(*args, **kwargs)
    )
    return isolated


def traces(model: ModelPatcher) -> tuple[dict[str, list[str]], dict[str, tuple[int, float]]]:
    """What might be left on the modules of a network, and where its weights are."""
    found = {}
    for name, module in model.model.named_modules():
        hooks = [k for k, v in vars(module).items() if "hooks" in k and v]
        if hooks or "forward" in vars(module):
            found[name] = hooks
    weights = {
        k: (w.data_ptr(), float(w.double().sum())) for k, w in model.model.state_dict().items()
    }
    return found, weights


each_architecture = pytest.mark.parametrize(
    "architecture", ARCHITECTURES, ids=lambda architecture: architecture.name
)
each_kind = pytest.mark.parametrize("kind", NODES)
