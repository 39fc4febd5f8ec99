"""The other architectures that ComfyUI loads, built small: for the table of architectures."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.ldm.ace.model
import comfy.ldm.audio.embedders
import comfy.ldm.flux.model
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from support.newer_models import NEWER
from support.rig import Conditioning
from support.small_models import (
    ARCHITECTURES,
    AXES,
    CONTEXT_WIDTH,
    FLUX_SHAPE,
    HEADS,
    POOLED_WIDTH,
    TEXT_TOKENS,
    WIDTH,
    Architecture,
    hunyuan_video,
    known,
    masked_text,
    patcher,
    text,
    video_model,
)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def hidream(seed: int) -> ModelPatcher:
    """A flow transformer of the HiDream kind, image before text, with experts."""
    return patcher(
        comfy.supported_models.HiDream(
            {
                "image_model": "hidream",
                "attention_head_dim": WIDTH // HEADS,
                "num_attention_heads": HEADS,
                "axes_dims_rope": list(AXES),
                "caption_channels": [CONTEXT_WIDTH, CONTEXT_WIDTH],
                "max_resolution": [128, 128],
                "in_channels": 16,
                "out_channels": 16,
                "llama_layers": [0, 1, 0, 1, 0, 1, 0],
                "num_routed_experts": 2,
                "num_activated_experts": 1,
                "num_layers": 3,
                "num_single_layers": 4,
                "patch_size": 2,
                "text_emb_dim": POOLED_WIDTH,
            }
        ),
        seed,
    )


def _hidream_text(seed: int) -> Conditioning:
    return text(seed, conditioning_llama3=_random(1, 2, TEXT_TOKENS, CONTEXT_WIDTH))


def mochi(seed: int) -> ModelPatcher:
    """A flow MMDiT of the Mochi kind: video before text."""
    return patcher(
        comfy.supported_models.GenmoMochi(
            {
                "image_model": "mochi_preview",
                "depth": 4,
                "patch_size": 2,
                "num_heads": HEADS,
                "hidden_size_x": WIDTH,
                "hidden_size_y": 32,
                "mlp_ratio_x": 12288 / WIDTH,  # it takes no other width in there
                "mlp_ratio_y": 2.0,
                "learn_sigma": False,
                "in_channels": 12,
                "qk_norm": True,
                "qkv_bias": False,
                "out_bias": True,
                "attn_drop": 0.0,
                "patch_embed_bias": True,
                "posenc_preserve_area": True,
                "timestep_mlp_bias": True,
                "attend_to_padding": False,
                "timestep_scale": 1000.0,
                "use_t5": True,
                "t5_feat_dim": CONTEXT_WIDTH,
                "t5_token_length": TEXT_TOKENS,
                "rope_theta": 10000.0,
            }
        ),
        seed,
    )


def ltxv(seed: int) -> ModelPatcher:
    """A flow transformer of the LTX-Video kind: each place of the latent is a token."""
    return patcher(
        comfy.supported_models.LTXV(
            {
                "image_model": "ltxv",
                "in_channels": 128,
                "num_layers": 4,
                "attention_head_dim": WIDTH // HEADS,
                "num_attention_heads": HEADS,
                "cross_attention_dim": WIDTH,
                "caption_channels": CONTEXT_WIDTH,
            }
        ),
        seed,
    )


def cosmos(seed: int) -> ModelPatcher:
    """A transformer of the Cosmos kind, whose blocks have names and tokens three dimensions."""
    return patcher(
        comfy.supported_models.CosmosT2V(
            _COSMOS_SHAPE
            | {
                "image_model": "cosmos",
                "block_config": "FA-CA-MLP",
                "block_x_format": "THWBD",
                "affline_emb_norm": True,
                "pos_emb_learnable": False,
                "extra_per_block_abs_pos_emb": True,
                "extra_per_block_abs_pos_emb_type": "learnable",
            }
        ),
        seed,
    )


def cosmos_predict2(seed: int) -> ModelPatcher:
    """A transformer of the Cosmos Predict 2 kind."""
    return patcher(
        comfy.supported_models.CosmosT2IPredict2(
            _COSMOS_SHAPE
            | {
                "image_model": "cosmos_predict2",
                "pos_emb_learnable": True,
                "extra_per_block_abs_pos_emb": False,
                "rope_enable_fps_modulation": False,
            }
        ),
        seed,
    )


_COSMOS_SHAPE = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": WIDTH,
    "num_blocks": 4,
    "num_heads": HEADS,
    "concat_padding_mask": True,
    "crossattn_emb_channels": CONTEXT_WIDTH,
    "pos_emb_cls": "rope3d",
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 8,
}


def hunyuan_dit(seed: int) -> ModelPatcher:
    """A v-prediction transformer of the Hunyuan-DiT kind, with skips over its middle."""
    return patcher(
        comfy.supported_models.HunyuanDiT(
            {
                "image_model": "hydit",
                "depth": 6,
                "hidden_size": 64,
                "num_heads": HEADS,
                "mlp_ratio": 2.0,
                "text_states_dim": CONTEXT_WIDTH,
                "text_states_dim_t5": CONTEXT_WIDTH,
                "text_len": TEXT_TOKENS,
                "text_len_t5": TEXT_TOKENS,
            }
        ),
        seed,
    )


def _hunyuan_dit_text(seed: int) -> Conditioning:
    mask = torch.ones(1, TEXT_TOKENS, dtype=torch.long)
    return text(
        seed,
        attention_mask=mask,
        conditioning_mt5xl=_random(1, TEXT_TOKENS, CONTEXT_WIDTH),
        attention_mask_mt5xl=mask,
    )


def hunyuan_image(seed: int) -> ModelPatcher:
    """A HunyuanVideo for images alone."""
    return hunyuan_video(
        seed,
        config=comfy.supported_models.HunyuanImage21,
        patch_size=[1, 1],
        axes_dim=[12, 12],
        vec_in_dim=None,
        in_channels=64,
        out_channels=64,
    )


def hunyuan_3d(seed: int) -> ModelPatcher:
    """A Flux of the Hunyuan3D 2 kind, for a cloud of tokens."""
    return patcher(
        comfy.supported_models.Hunyuan3Dv2(
            {
                "image_model": "hunyuan3d2",
                "in_channels": 64,
                "context_in_dim": CONTEXT_WIDTH,
                "hidden_size": WIDTH,
                "mlp_ratio": 2.0,
                "num_heads": HEADS,
                "depth": 3,
                "depth_single_blocks": 4,
                "qkv_bias": True,
                "guidance_embed": True,
            }
        ),
        seed,
    )


def hunyuan_3d_2_1(seed: int) -> ModelPatcher:
    """A transformer of the Hunyuan3D 2.1 kind, whose patch point is its own."""
    return patcher(
        comfy.supported_models.Hunyuan3Dv2_1(
            {
                "image_model": "hunyuan3d2_1",
                "in_channels": 64,
                "context_dim": CONTEXT_WIDTH,
                "hidden_size": WIDTH,
                "num_heads": HEADS,
                "depth": 5,
                "qkv_bias": False,
                "guidance_cond_proj_dim": None,
                "num_moe_layers": 1,
                "num_experts": 2,
                "moe_top_k": 1,
            }
        ),
        seed,
    )


def stable_audio(seed: int) -> ModelPatcher:
    """A v-prediction transformer of the Stable Audio kind: a token before those of the sound."""
    seconds = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=512).state_dict()
    weights = {
        f"conditioner.conditioners.{name}.{key}": 0.1 * _random(*weight.shape)
        for name in ("seconds_start", "seconds_total")
        for key, weight in seconds.items()
    }
    model = patcher(
        comfy.supported_models.StableAudio(
            {
                "audio_model": "dit1.0",
                "embed_dim": 64,
                "num_heads": HEADS,
                "depth": 4,
                # Text of its full width has more heads than so small a model.
                "project_cond_tokens": True,
            }
        ),
        seed,
        weights,
    )
    # ComfyUI leaves it as it finds the memory.
    frequencies = model.model.diffusion_model.transformer.rotary_pos_emb.inv_freq
    frequencies.copy_(torch.linspace(1.0, 0.01, len(frequencies)))
    return model


def _stable_audio_text(seed: int) -> Conditioning:
    return [[_random(1, TEXT_TOKENS, 768) + seed, {}]]


class _Lyrics(torch.nn.Module):
    """In place of the encoder of ACE-Step, which cannot be built small."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, mask: torch.Tensor, **_: Any) -> tuple[torch.Tensor, Any]:
        return x, mask


def ace_step(seed: int) -> ModelPatcher:
    """A flow transformer of the ACE-Step kind: attention whose cost is linear, and convolutions."""
    encoder = comfy.ldm.ace.model.LyricEncoder
    comfy.ldm.ace.model.LyricEncoder = _Lyrics
    try:
        return patcher(
            comfy.supported_models.ACEStep(
                {
                    "audio_model": "ace",
                    "num_layers": 4,
                    "attention_head_dim": WIDTH // HEADS,
                    "num_attention_heads": HEADS,
                    "mlp_ratio": 2.0,
                    "text_embedding_dim": CONTEXT_WIDTH,
                    "lyric_encoder_vocab_size": 10,
                    "lyric_hidden_size": CONTEXT_WIDTH,
                }
            ),
            seed,
        )
    finally:
        comfy.ldm.ace.model.LyricEncoder = encoder


def _ace_step_text(seed: int) -> Conditioning:
    return text(seed, conditioning_lyrics=torch.tensor([[1, 2, 3]]))


def omnigen2(seed: int) -> ModelPatcher:
    """A flow transformer of the OmniGen 2 kind, built like Lumina."""
    return patcher(
        comfy.supported_models.Omnigen2(
            {
                "image_model": "omnigen2",
                "axes_dim_rope": list(AXES),
                "axes_lens": [100, 100, 100],
                "hidden_size": WIDTH,
                "in_channels": 16,
                "multiple_of": 32,
                "num_attention_heads": HEADS,
                "num_kv_heads": 1,
                "num_layers": 4,
                "num_refiner_layers": 1,
                "patch_size": 2,
                "text_feat_dim": CONTEXT_WIDTH,
                "timestep_scale": 1000.0,
            }
        ),
        seed,
    )


def cascade_c(seed: int) -> ModelPatcher:
    """A Stable Cascade, stage C: blocks that are lists of parts."""
    return patcher(
        comfy.supported_models.Stable_Cascade_C(
            {
                "stable_cascade_stage": "c",
                "c_cond": 32,
                "c_hidden": [32, 32],
                "nhead": [2, 2],
                "blocks": [[1, 2], [2, 1]],
                "c_clip_text": CONTEXT_WIDTH,
                "c_clip_text_pooled": POOLED_WIDTH,
            }
        ),
        seed,
    )


def cascade_b(seed: int) -> ModelPatcher:
    """A Stable Cascade, stage B."""
    return patcher(
        comfy.supported_models.Stable_Cascade_B(
            {
                "stable_cascade_stage": "b",
                "c_cond": 32,
                "c_hidden": [32, 32],
                "nhead": [-1, 2],
                "blocks": [[1, 1], [1, 1]],
                "block_repeat": [[1, 1], [3, 2]],
                "level_config": ["CT", "CTA"],
                "dropout": [0.0, 0.0],
                "c_clip": POOLED_WIDTH,
            }
        ),
        seed,
    )


def wan_vace(seed: int) -> ModelPatcher:
    """A Wan with blocks beside its own for a video to go by."""
    return video_model(
        seed,
        config=comfy.supported_models.WAN21_Vace,
        model_type="vace",
        vace_layers=2,
        vace_in_dim=96,
    )


def wan_reference(seed: int) -> ModelPatcher:
    """A Wan that takes a reference image, before the video."""
    return video_model(seed, in_dim_ref_conv=16)


def wan_camera(seed: int) -> ModelPatcher:
    """A Wan whose camera can be moved."""
    return video_model(
        seed,
        config=comfy.supported_models.WAN21_Camera,
        model_type="camera_2.2",
        in_dim_control_adapter=4,
    )


def wan_sound(seed: int) -> ModelPatcher:
    """A Wan that goes by sound."""
    return video_model(
        seed,
        config=comfy.supported_models.WAN22_S2V,
        model_type="s2v",
        audio_dim=8,
        audio_inject_layers=[0, 2],
    )


def wan_humo(seed: int) -> ModelPatcher:
    """A Wan for humans who speak."""
    return video_model(seed, config=comfy.supported_models.WAN21_HuMo, model_type="humo")


class _Motion(torch.nn.Module):
    """In place of the encoder of motion of Wan Animate, which cannot be built small."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


def wan_animate(seed: int) -> ModelPatcher:
    """A Wan that brings an image to life."""
    import comfy.ldm.wan.model_animate as module

    encoder = module.Generator
    module.Generator = _Motion
    try:
        return video_model(
            seed,
            config=comfy.supported_models.WAN22_Animate,
            model_type="animate",
            motion_encoder_dim=16,
            num_layers=5,
        )
    finally:
        module.Generator = encoder


def flux2(seed: int, guidance_embed: bool = True) -> ModelPatcher:
    """A Flux 2, for latents that are patches already."""
    return patcher(
        comfy.supported_models.Flux2(
            FLUX_SHAPE
            | {
                "image_model": "flux2",
                "in_channels": 128,
                "out_channels": 128,
                "vec_in_dim": None,
                "axes_dim": [6, 6, 6, 6],
                "patch_size": 1,
                "guidance_embed": guidance_embed,
                "global_modulation": True,
                "mlp_silu_act": True,
                "qkv_bias": False,
                "ops_bias": False,
            }
            | known(comfy.ldm.flux.model.FluxParams, {"txt_ids_dims": [3]})
        ),
        seed,
    )


def radiance(seed: int) -> ModelPatcher:
    """A Chroma that makes pixels, with blocks for those inside of one patch."""
    import comfy.ldm.chroma_radiance.model  # not yet in the oldest release of ComfyUI

    later = {
        "txt_ids_dims": [],
        "vec_in_dim": None,
        "use_x0": False,
        "use_sequential_txt_ids": False,
    }
    return patcher(
        comfy.supported_models.ChromaRadiance(
            FLUX_SHAPE
            | {
                "image_model": "chroma_radiance",
                "in_channels": 3,
                "out_channels": 3,
                "in_dim": 64,
                "hidden_dim": 32,
                "out_dim": WIDTH,
                "n_layers": 1,
                "patch_size": 16,
                "nerf_hidden_size": 16,
                "nerf_mlp_ratio": 2,
                "nerf_depth": 2,
                "nerf_max_freqs": 4,
                "nerf_tile_size": 0,
                "nerf_final_head_type": "conv",
                "nerf_embedder_dtype": torch.float32,
            }
            | known(comfy.ldm.chroma_radiance.model.ChromaRadianceParams, later)
        ),
        seed,
    )


_VIDEO = (2, 16, 2, 8, 12)
_WAN = partial(Architecture, latent=_VIDEO, blocks=("blocks",))
_FLUX_BLOCKS = ("double_blocks", "single_blocks")
_CLOUD = {"latent": (2, 64, 10), "patch": (1, 1, 1)}

RARE = [
    Architecture(
        "hidream",
        hidream,
        (2, 16, 8, 12),
        ("double_stream_blocks", "single_stream_blocks"),
        _hidream_text,
    ),
    Architecture("mochi", mochi, (2, 12, 2, 8, 12), ("blocks",), masked_text),
    Architecture("ltxv", ltxv, (2, 128, 2, 4, 6), ("transformer_blocks",), masked_text, (1, 1, 1)),
    Architecture("cosmos", cosmos, _VIDEO, ("blocks",)),
    Architecture("cosmos_predict2", cosmos_predict2, _VIDEO, ("blocks",)),
    Architecture("hunyuan_dit", hunyuan_dit, (2, 4, 8, 12), ("blocks",), _hunyuan_dit_text),
    Architecture("hunyuan_3d", hunyuan_3d, blocks=_FLUX_BLOCKS, **_CLOUD),
    Architecture(
        "stable_audio",
        stable_audio,
        (2, 64, 12),
        ("transformer.layers",),
        _stable_audio_text,
        (1, 1, 1),
    ),
    Architecture(
        "ace_step", ace_step, (2, 8, 16, 12), ("transformer_blocks",), _ace_step_text, (1, 16, 1)
    ),
    Architecture("omnigen2", omnigen2, (2, 16, 8, 12), ("layers",), masked_text),
    Architecture("cascade_c", cascade_c, (2, 16, 8, 12), ("down_blocks", "up_blocks")),
    Architecture("cascade_b", cascade_b, (2, 4, 16, 24), ("down_blocks", "up_blocks")),
    _WAN("wan_vace", wan_vace, blocks=("blocks", "vace_blocks")),
    _WAN("wan_reference", wan_reference),
    _WAN("wan_camera", wan_camera),
]
if hasattr(comfy.supported_models, "Flux2"):  # not yet in the oldest release of ComfyUI
    RARE += [
        Architecture("flux2", flux2, (2, 128, 4, 6), _FLUX_BLOCKS, patch=(1, 1, 1)),
        Architecture(
            "radiance",
            radiance,
            (2, 3, 64, 96),
            (*_FLUX_BLOCKS, "nerf_blocks"),
            patch=(1, 16, 16),
        ),
        Architecture("hunyuan_image", hunyuan_image, (2, 64, 4, 6), _FLUX_BLOCKS, patch=(1, 1, 1)),
        Architecture("hunyuan_3d_2_1", hunyuan_3d_2_1, blocks=("blocks",), **_CLOUD),
        _WAN("wan_sound", wan_sound),
        _WAN("wan_humo", wan_humo),
        _WAN("wan_animate", wan_animate),
    ]
RARE += NEWER
EVERY = [*ARCHITECTURES, *RARE]
EVERY_BY_NAME = {architecture.name: architecture for architecture in EVERY}
