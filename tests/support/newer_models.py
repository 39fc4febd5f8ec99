"""The architectures that ComfyUI loads since 0.3.75, built small."""

from __future__ import annotations

import importlib
import inspect
from functools import partial
from typing import Any

import comfy.ldm.audio.embedders
import comfy.supported_models as supported
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import BASE

from support.rig import Conditioning
from support.small_models import (
    AXES,
    CONTEXT_WIDTH,
    HEADS,
    POOLED_WIDTH,
    TEXT_TOKENS,
    WIDTH,
    Architecture,
    masked_text,
    patcher,
    text,
    video_model,
    z_image,
)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def _built(config: type[BASE], seed: int, weights: Any = None, **shape: Any) -> ModelPatcher:
    """A model of this shape, also where ComfyUI knows of one only."""
    made = config(config.unet_config | shape)
    made.unet_config.update(shape)
    return patcher(made, seed, weights)


_HEADS = {"attention_head_dim": WIDTH // HEADS, "num_attention_heads": HEADS}


def lens(seed: int) -> ModelPatcher:
    """An MMDiT of the Lens kind: image before text, latents that are patches already."""
    return _built(
        supported.Lens,
        seed,
        **_HEADS,
        num_layers=4,
        enc_hidden_dim=CONTEXT_WIDTH // 3,
        axes_dims_rope=AXES,
        selected_layer_index=(0, 1, 2),
    )


def ernie(seed: int) -> ModelPatcher:
    """A transformer of the ERNIE-Image kind: image before text in one stream."""
    return _built(
        supported.ErnieImage,
        seed,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_layers=4,
        ffn_hidden_size=64,
        text_in_dim=CONTEXT_WIDTH,
        rope_axes_dim=AXES,
    )


def joy_image(seed: int) -> ModelPatcher:
    """An MMDiT of the JoyImage kind: image before text, references behind the image."""
    return _built(
        supported.JoyImage,
        seed,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_layers=4,
        text_dim=CONTEXT_WIDTH,
        rope_dim_list=list(AXES),
        mlp_width_ratio=2.0,
    )


def kandinsky5(seed: int) -> ModelPatcher:
    """A video transformer of the Kandinsky 5 kind, whose patch point fails in ComfyUI."""
    return _built(
        supported.Kandinsky5,
        seed,
        in_text_dim=CONTEXT_WIDTH,
        in_text_dim2=POOLED_WIDTH,
        time_dim=32,
        model_dim=WIDTH,
        ff_dim=64,
        visual_embed_dim=132,
        num_text_blocks=1,
        num_visual_blocks=4,
        axes_dims=AXES,
    )


def ideogram4(seed: int) -> ModelPatcher:
    """A transformer of the Ideogram 4 kind: text before image in one stream."""
    return _built(
        supported.Ideogram4,
        seed,
        **_HEADS,
        num_layers=4,
        intermediate_size=64,
        adaln_dim=16,
        llm_features_dim=CONTEXT_WIDTH,
        mrope_section=[4, 4, 4],
    )


def krea2(seed: int) -> ModelPatcher:
    """A transformer of the Krea 2 kind: text, image, references in one stream."""
    return _built(
        supported.Krea2,
        seed,
        features=64,
        tdim=32,
        txtdim=8,
        heads=2,
        kvheads=1,
        multiplier=2,
        layers=4,
        txtlayers=3,
        txtheads=2,
        txtkvheads=2,
    )


def anima(seed: int, num_blocks: int = 4) -> ModelPatcher:
    """A Cosmos Predict 2 of the Anima kind."""
    return _built(
        supported.Anima,
        seed,
        max_img_h=240,
        max_img_w=240,
        max_frames=128,
        in_channels=16,
        out_channels=16,
        patch_spatial=2,
        patch_temporal=1,
        model_channels=WIDTH,
        num_blocks=num_blocks,
        num_heads=HEADS,
        concat_padding_mask=True,
        crossattn_emb_channels=CONTEXT_WIDTH,
        pos_emb_cls="rope3d",
        pos_emb_learnable=True,
        pos_emb_interpolation="crop",
        use_adaln_lora=True,
        adaln_lora_dim=8,
        extra_per_block_abs_pos_emb=False,
        rope_enable_fps_modulation=False,
    )


def boogu(seed: int) -> ModelPatcher:
    """A transformer of the Boogu kind: OmniGen 2 with blocks of two streams before the others."""
    return _built(
        supported.Boogu,
        seed,
        hidden_size=WIDTH,
        num_layers=4,
        num_double_stream_layers=3,
        num_refiner_layers=1,
        num_attention_heads=HEADS,
        num_kv_heads=1,
        multiple_of=32,
        axes_dim_rope=AXES,
        axes_lens=(100, 100, 100),
        instruction_feat_dim=CONTEXT_WIDTH,
    )


_PIXELS = {
    "num_groups": HEADS,
    "hidden_size": WIDTH,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": WIDTH,
    "pixel_num_groups": HEADS,
    "patch_depth": 4,
    "pixel_depth": 2,
    "txt_embed_dim": CONTEXT_WIDTH,
    "txt_max_length": 20,
}


def pixel_dit(seed: int) -> ModelPatcher:
    """A PixelDiT: blocks of two streams for the patches, then blocks for their pixels."""
    return _built(supported.PixelDiTT2I, seed, **_PIXELS)


def pid(seed: int) -> ModelPatcher:
    """A PixelDiT that makes pixels of a latent."""
    return _built(supported.PiD, seed, **_PIXELS, lq_hidden_dim=16, lq_num_res_blocks=1)


def _pid_text(seed: int) -> Conditioning:
    return text(seed, lq_latent=_random(1, 16, 2, 3), degrade_sigma=torch.tensor([0.3]))


def cog_video(seed: int) -> ModelPatcher:
    """A video transformer of the CogVideoX kind: two streams, no patch points."""
    return _built(
        supported.CogVideoX_T2V,
        seed,
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=16,
        out_channels=16,
        time_embed_dim=32,
        text_embed_dim=CONTEXT_WIDTH,
        num_layers=4,
        sample_width=12,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=TEXT_TOKENS,
        use_rotary_positional_embeddings=True,
    )


def hidream_o1(seed: int) -> ModelPatcher:
    """A language model of the HiDream-O1 kind, which keeps what it has read of the prompt."""
    return _built(
        supported.HiDreamO1,
        seed,
        text_config_overrides={
            "vocab_size": 151674,
            "hidden_size": WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 1,
            "head_dim": WIDTH // HEADS,
            "rope_dims": [4, 4, 4],
        },
        vision_config_overrides={
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 32,
            "depth": 2,
            "num_position_embeddings": 64,
        },
    )


def _tokens(seed: int) -> Conditioning:
    ids = torch.tensor([[10, 11, 12, 20 + seed, 30 + seed, 151673]])
    return text(seed, text_input_ids=ids)


def ltx_av(seed: int) -> ModelPatcher:
    """An LTX that makes sound beside its video."""
    return _built(
        supported.LTXAV,
        seed,
        **_HEADS,
        num_layers=4,
        cross_attention_dim=WIDTH,
        audio_cross_attention_dim=24,
        audio_attention_head_dim=12,
        audio_num_attention_heads=HEADS,
        caption_channels=CONTEXT_WIDTH,
        connector_attention_head_dim=8,
        connector_num_attention_heads=2,
        connector_num_layers=1,
    )


def _text_for_both(seed: int) -> Conditioning:
    ((context, extras),) = masked_text(seed)
    return [[torch.cat((context, context.flip(1)), dim=-1), extras]]


def minimax_h3(seed: int) -> ModelPatcher:
    """A MiniMax H3: text, sound and video in one sequence, one video at a time."""
    model = _built(
        supported.MiniMaxH3,
        seed,
        hidden_size=WIDTH,
        num_layers=4,
        token_refiner_num_layers=1,
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        ffn_hidden_size=64,
        text_dim=CONTEXT_WIDTH,
        timestep_input_dim=32,
        time_embed_hidden_size=32,
        time_embed_dim=32,
        rope_inv_freq_len=4,
    )
    # ComfyUI leaves it as it finds the memory.
    model.model.diffusion_model.rope.inv_freq.copy_(torch.linspace(1.0, 0.01, 4))
    return model


def seed_vr2(seed: int) -> ModelPatcher:
    """A SeedVR2, which makes videos sharper: tokens in windows, videos one after the other."""
    model = _built(
        supported.SeedVR2,
        seed,
        norm_eps=1e-5,
        num_layers=4,
        mlp_type="swiglu",
        vid_dim=WIDTH,
        txt_in_dim=CONTEXT_WIDTH,
        heads=HEADS,
        head_dim=WIDTH // HEADS,
        mm_layers=2,
        expand_ratio=2,
        rope_dim=24,
    )
    for name in ("positive_conditioning", "negative_conditioning"):
        getattr(model.model.diffusion_model, name).zero_()
    return model


def _condition(seed: int) -> Conditioning:
    return text(seed, condition=_random(2, 17, 2, 8, 12))


def tripo_splat(seed: int) -> ModelPatcher:
    """A TripoSplat: a cloud of tokens, and a camera beside it."""
    return _built(
        supported.TripoSplat,
        seed,
        q_token_length=12,
        model_channels=WIDTH,
        cond_channels=CONTEXT_WIDTH,
        num_blocks=4,
        num_refiner_blocks=1,
        num_heads=HEADS,
        num_head_channels=WIDTH // HEADS,
        mlp_ratio=2,
    )


def trellis2(seed: int) -> ModelPatcher:
    """A Trellis 2, of which the network for structures runs."""
    return _built(
        supported.Trellis2,
        seed,
        resolution=16,
        model_channels=WIDTH,
        cond_channels=CONTEXT_WIDTH,
        num_blocks=2,
        num_heads=HEADS,
        mlp_ratio=2.0,
    )


def _embeds(seed: int) -> Conditioning:
    return text(seed, embeds=_random(1, TEXT_TOKENS, CONTEXT_WIDTH))


def ace_step15(seed: int) -> ModelPatcher:
    """A transformer of the ACE-Step 1.5 kind, for sound alone."""
    encoder = {
        "encoder_hidden_size": WIDTH,
        "encoder_intermediate_size": 64,
        "encoder_num_heads": HEADS,
    }
    network = importlib.import_module("comfy.ldm.ace.ace_step15").AceStepConditionGenerationModel
    known = inspect.signature(network).parameters
    return _built(
        supported.ACEStep15,
        seed,
        hidden_size=WIDTH,
        text_hidden_dim=CONTEXT_WIDTH,
        num_dit_layers=4,
        num_lyric_layers=1,
        num_timbre_layers=1,
        num_tokenizer_layers=1,
        num_heads=HEADS,
        num_kv_heads=1,
        head_dim=24,
        intermediate_size=64,
        fsq_dim=WIDTH,
        # Earlier releases build the encoder like the rest.
        **{name: value for name, value in encoder.items() if name in known},
    )


def _lyrics(seed: int) -> Conditioning:
    return text(seed, conditioning_lyrics=_random(1, 3, CONTEXT_WIDTH))


def music3(seed: int) -> ModelPatcher:
    """A MiniMax Music 3, whose widths are given, with few layers."""
    module = importlib.import_module("comfy.ldm.minimax_music.dit")
    module.range = lambda count: range(min(count, 4))
    try:
        model = _built(supported.MiniMaxMusic3, seed)
    finally:
        del module.range
    transformer = model.model.diffusion_model.diffusion_transformer.transformer
    transformer.rotary_pos_emb.inv_freq.copy_(torch.linspace(1.0, 0.01, 16))
    for layer in transformer.layers:
        layer.pre_norm.beta.zero_()
        layer.ff_norm.beta.zero_()
    return model


def _frames(seed: int) -> Conditioning:
    hidden = torch.randn(1, 3, 8 * 4096, generator=torch.Generator().manual_seed(seed))
    return [[hidden, {"conditioning_scale": torch.ones(1, 1, 1)}]]


def stable_audio3(seed: int) -> ModelPatcher:
    """A Stable Audio 3: tokens of its own before those of the sound."""
    seconds = comfy.ldm.audio.embedders.NumberConditioner(
        768, min_val=0, max_val=384, fourier_features_type="expo"
    ).state_dict()
    weights = {
        f"conditioner.conditioners.seconds_total.{key}": 0.1 * _random(*weight.shape)
        for key, weight in seconds.items()
    }
    model = _built(
        supported.StableAudio3,
        seed,
        weights,
        io_channels=256,
        embed_dim=64,
        num_heads=HEADS,
        depth=4,
        project_cond_tokens=True,
        global_cond_dim=768,
        global_cond_type="adaLN",
        timestep_features_type="expo",
        num_memory_tokens=3,
        local_add_cond_dim=257,
    )
    frequencies = model.model.diffusion_model.transformer.rotary_pos_emb.inv_freq
    frequencies.copy_(torch.linspace(1.0, 0.01, len(frequencies)))
    return model


def _wide_text(seed: int) -> Conditioning:
    return [[_random(1, TEXT_TOKENS, 768) + seed, {}]]


def mage_flow(seed: int) -> ModelPatcher:
    """A Qwen-Image of the Mage-Flow kind, for latents that are patches already."""
    return _built(
        supported.MageFlow,
        seed,
        **_HEADS,
        num_layers=4,
        joint_attention_dim=CONTEXT_WIDTH,
        axes_dims_rope=AXES,
    )


def z_image_pixel(seed: int) -> ModelPatcher:
    """A Z-Image that makes pixels."""
    return z_image(
        seed,
        config=supported.ZImagePixelSpace,
        image_model="zimage_pixel",
        patch_size=16,
        in_channels=3,
        decoder_hidden_size=32,
        decoder_num_res_blocks=1,
        decoder_max_freqs=2,
    )


def _wan(name: str, config: str, kind: str, **changed: Any) -> dict[str, Architecture]:
    known = getattr(supported, config, None)
    build = partial(video_model, config=known, model_type=kind, **changed)
    return {config: Architecture(name, build, _VIDEO, ("blocks",))}


_IMAGE = (2, 128, 4, 6)
_VIDEO = (2, 16, 2, 8, 12)
_PIXEL_IMAGE = (2, 3, 64, 96)
_ONE = (1, 1, 1)

# By the model of ComfyUI that they are; a release may know only some of them.
_ALL = {
    "Lens": Architecture("lens", lens, _IMAGE, ("transformer_blocks",), masked_text, _ONE),
    "ErnieImage": Architecture("ernie", ernie, _IMAGE, ("layers",), patch=_ONE),
    "JoyImage": Architecture("joy_image", joy_image, (2, 16, 1, 8, 12), ("double_blocks",)),
    "Kandinsky5": Architecture("kandinsky5", kandinsky5, _VIDEO, ("visual_transformer_blocks",)),
    "Ideogram4": Architecture("ideogram4", ideogram4, _IMAGE, ("layers",), patch=_ONE),
    "Krea2": Architecture("krea2", krea2, (2, 16, 1, 8, 12), ("blocks",)),
    "Anima": Architecture("anima", anima, (2, 16, 1, 8, 12), ("blocks",)),
    "Boogu": Architecture(
        "boogu",
        boogu,
        (2, 16, 8, 12),
        ("double_stream_layers", "single_stream_layers"),
        masked_text,
    ),
    "PixelDiTT2I": Architecture(
        "pixel_dit", pixel_dit, _PIXEL_IMAGE, ("patch_blocks", "pixel_blocks"), patch=(1, 16, 16)
    ),
    "PiD": Architecture(
        "pid", pid, _PIXEL_IMAGE, ("patch_blocks", "pixel_blocks"), _pid_text, (1, 16, 16)
    ),
    "CogVideoX_T2V": Architecture("cog_video", cog_video, _VIDEO, ("blocks",)),
    "HiDreamO1": Architecture(
        "hidream_o1",
        hidream_o1,
        (2, 3, 128, 192),
        ("language_model.layers",),
        _tokens,
        (1, 32, 32),
    ),
    "LTXAV": Architecture(
        "ltx_av",
        ltx_av,
        (2, 128, 2, 4, 6),
        ("transformer_blocks",),
        _text_for_both,
        _ONE,
        beside=((2, 8, 48, 16),),  # of as many tokens as the video
    ),
    "MiniMaxH3": Architecture(
        "minimax_h3", minimax_h3, (1, 24, 2, 8, 12), ("blocks",), beside=((1, 32, 2, 9),)
    ),
    "SeedVR2": Architecture("seed_vr2", seed_vr2, _VIDEO, ("blocks",), _condition),
    "TripoSplat": Architecture(
        "tripo_splat", tripo_splat, (2, 12, 16), ("blocks",), patch=_ONE, beside=((2, 1, 5),)
    ),
    "Trellis2": Architecture(
        "trellis2", trellis2, (1, 32, 16, 16, 16), ("structure_model.blocks",), _embeds, _ONE
    ),
    "ACEStep15": Architecture(
        "ace_step15", ace_step15, (2, 64, 12), ("decoder.layers",), _lyrics, (1, 1, 2)
    ),
    "MiniMaxMusic3": Architecture(
        "music3",
        music3,
        (1, 128, 12),
        ("diffusion_transformer.transformer.layers",),
        _frames,
        _ONE,
    ),
    "StableAudio3": Architecture(
        "stable_audio3", stable_audio3, (2, 256, 12), ("transformer.layers",), _wide_text, _ONE
    ),
    "MageFlow": Architecture("mage_flow", mage_flow, _IMAGE, ("transformer_blocks",), patch=_ONE),
    "ZImagePixelSpace": Architecture(
        "z_image_pixel", z_image_pixel, _PIXEL_IMAGE, ("layers",), masked_text, (1, 16, 16)
    ),
    **_wan("wan_causal", "WAN21_CausalAR_T2V", "t2v", causal_ar=True),
    **_wan("wan_animate2", "WAN_Animate2", "animate2", in_dim=36),
    **_wan("wan_scail", "WAN21_SCAIL", "scail", in_dim=20),
    **_wan("wan_scail2", "WAN21_SCAIL2", "scail2", in_dim=20),
    **_wan("wan_dancer", "WAN22_WanDancer", "wandancer", in_dim=36),
}
NEWER = [architecture for config, architecture in _ALL.items() if hasattr(supported, config)]
