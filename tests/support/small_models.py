"""Core architectures built small, with random weights, where the digits model cannot stand in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from inspect import signature
from typing import Any

import comfy.cldm.mmdit
import comfy.controlnet
import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.hunyuan_video.model
import comfy.model_management
import comfy.ops
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import BASE

from support.rig import Conditioning

TEXT_TOKENS = 5
CONTEXT_WIDTH = 24
POOLED_WIDTH = 16

# Tokens of the transformers: two heads of 24, in which each of three axes has its own 8 for RoPE.
WIDTH, HEADS, AXES = 48, 2, (8, 8, 8)


def text(seed: int, **extras: Any) -> Conditioning:
    """What a text encoder makes of a prompt, with what else a model asks for."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, TEXT_TOKENS, CONTEXT_WIDTH, generator=generator)
    pooled = torch.randn(1, POOLED_WIDTH, generator=generator)
    return [[context, {"pooled_output": pooled} | extras]]


def masked_text(seed: int) -> Conditioning:
    """A text that says which of its tokens count, as some text encoders do: all of them."""
    return text(seed, attention_mask=torch.ones(1, TEXT_TOKENS, dtype=torch.long))


conditionings = (text(1), text(2))


def _random_weights(network: torch.nn.Module, seed: int) -> None:
    """Weights with which every layer hands on about as much as it gets."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1 and name in ("weight", "scale"):  # of a norm
                noise = 1 + 0.1 * noise
            elif name == "weight":
                noise *= 1.2 / parameter[0].numel() ** 0.5  # more than 1 for what activations take
            elif name == "bias":
                noise *= 0.1
            else:  # a table of modulations, positions or tokens
                noise *= 0.5
            parameter.data = noise
    # ComfyUI leaves a table of positions as it finds the memory.
    for name, buffer in network.named_buffers():
        if name == "pos_embed":
            buffer.copy_(0.5 * torch.randn(buffer.shape, generator=generator))


def deepen(model: ModelPatcher, blocks: str, depth: int) -> ModelPatcher:
    """Give a list of a network as many blocks as that of a real one.

    They are copies of its first block, each with slightly smaller weights.

    Args:
        model: changed itself.
        blocks: path of the list on the diffusion model.
        depth: of the list after that.
    """
    found = model.model.diffusion_model.get_submodule(blocks)
    # Behind the first one, since the last one may be of another kind.
    for i in range(1, depth - len(found) + 1):
        block = copy.deepcopy(found[0])
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(1 - 0.01 * i)
        found.insert(i, block)
    return model


def patcher(
    config: BASE, seed: int, weights: dict[str, torch.Tensor] | None = None
) -> ModelPatcher:
    """A model of random weights; a few models want some of theirs as they are built."""
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights or {}, device=device)
    _random_weights(model.diffusion_model, seed)
    return ModelPatcher(model.eval(), load_device=device, offload_device=device)


def known(params: type, later: dict[str, Any]) -> dict[str, Any]:
    """Of what later releases ask for, what the running one knows of.

    Args:
        params: the dataclass with all that a network is made from.
        later: by its fields' names.
    """
    names = {field.name for field in fields(params)}
    return {name: value for name, value in later.items() if name in names}


def unet(seed: int, in_channels: int = 4) -> ModelPatcher:
    """An eps-prediction U-Net of the SD1.5 kind: latents of 4 channels, attention in the middle.

    With 9 input channels it is an inpainting model.
    """
    return patcher(
        comfy.supported_models.SD15(
            {
                "image_size": 32,
                "in_channels": in_channels,
                "out_channels": 4,
                "model_channels": 32,
                "num_res_blocks": [1, 1],
                "channel_mult": [1, 2],
                "transformer_depth": [1, 1],
                "transformer_depth_output": [1, 1, 1, 1],
                "transformer_depth_middle": 1,
                "use_spatial_transformer": True,
                "context_dim": CONTEXT_WIDTH,
                "num_heads": 4,
                "num_head_channels": -1,
                "legacy": False,
                "use_linear_in_transformer": False,
                "adm_in_channels": None,
                "use_temporal_attention": False,
            }
        ),
        seed,
    )


def sdxl(seed: int, middle_depth: int = 2) -> ModelPatcher:
    """A U-Net of the SDXL kind: no attention at full size, two transformer blocks at the bottom.

    Distilled ones have no transformers in the middle, with a depth of -1, or no middle, with -2.
    """
    return patcher(
        comfy.supported_models.SDXL(
            {
                "image_size": 32,
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 32,
                "num_res_blocks": [1, 1, 1],
                "channel_mult": [1, 2, 4],
                "transformer_depth": [0, 1, 2],
                "transformer_depth_output": [0, 0, 1, 1, 2, 2],
                "transformer_depth_middle": middle_depth,
                "use_spatial_transformer": True,
                "context_dim": CONTEXT_WIDTH,
                "legacy": False,
                "use_linear_in_transformer": True,
                "num_classes": "sequential",
                "adm_in_channels": POOLED_WIDTH + 6 * 256,  # six sizes, each embedded in 256
                "use_temporal_attention": False,
            }
        ),
        seed,
    )


def video_unet(seed: int) -> ModelPatcher:
    """A v-prediction U-Net of the SVD kind: each image of a batch is a frame of one video."""
    return patcher(
        comfy.supported_models.SVD_img2vid(
            {
                "image_size": 32,
                "in_channels": 8,
                "out_channels": 4,
                "model_channels": 64,  # of which each head has 64
                "num_res_blocks": [1, 1],
                "channel_mult": [1, 2],
                "transformer_depth": [1, 1],
                "transformer_depth_output": [1, 1, 1, 1],
                "transformer_depth_middle": 1,
                "use_spatial_transformer": True,
                "context_dim": CONTEXT_WIDTH,
                "legacy": False,
                "use_linear_in_transformer": True,
                "num_classes": "sequential",
                "adm_in_channels": 3 * 256,
                "extra_ff_mix_layer": True,
                "use_spatial_context": True,
                "merge_strategy": "learned_with_images",
                "merge_factor": 0.0,
                "video_kernel_size": [3, 1, 1],
                "use_temporal_resblock": True,
                "use_temporal_attention": True,
            }
        ),
        seed,
    )


def sd3(seed: int, dual_attention: tuple[int, ...] = (), num_blocks: int = 4) -> ModelPatcher:
    """A flow MMDiT of the SD3 kind; blocks of ``dual_attention`` also attend to the image alone."""
    return patcher(
        comfy.supported_models.SD3(
            {
                "input_size": None,
                "in_channels": 16,
                "patch_size": 2,
                "depth": 1,  # its width is 64 times this
                "num_blocks": num_blocks,
                "adm_in_channels": POOLED_WIDTH,
                "context_embedder_config": {
                    "target": "torch.nn.Linear",
                    "params": {"in_features": CONTEXT_WIDTH, "out_features": 64},
                },
                "qk_norm": "rms" if dual_attention else None,
                "x_block_self_attn_layers": list(dual_attention),
            }
        ),
        seed,
    )


def flux(seed: int) -> ModelPatcher:
    """A flow transformer of the Flux kind, text before image."""
    return patcher(
        comfy.supported_models.Flux(
            FLUX_SHAPE
            | {
                "image_model": "flux",
                "in_channels": 16,
                "out_channels": 16,
                "vec_in_dim": POOLED_WIDTH,
                "guidance_embed": True,
            }
            | known(comfy.ldm.flux.model.FluxParams, {"txt_ids_dims": []})
        ),
        seed,
    )


def chroma(seed: int) -> ModelPatcher:
    """A Flux whose blocks own no modulation: one network makes it for all of them."""
    return patcher(
        comfy.supported_models.Chroma(
            FLUX_SHAPE
            | {
                "image_model": "chroma",
                "in_channels": 64,  # already folded into patches of 2 x 2
                "out_channels": 64,
                "in_dim": 64,
                "hidden_dim": 32,
                "out_dim": WIDTH,
                "n_layers": 1,
            }
            | known(comfy.ldm.chroma.model.ChromaParams, {"txt_ids_dims": [], "vec_in_dim": None})
        ),
        seed,
    )


FLUX_SHAPE = {
    "context_in_dim": CONTEXT_WIDTH,
    "hidden_size": WIDTH,
    "mlp_ratio": 2.0,
    "num_heads": HEADS,
    "depth": 3,
    "depth_single_blocks": 4,
    "axes_dim": list(AXES),
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
}


def lumina(seed: int) -> ModelPatcher:
    """A flow transformer of the Lumina 2 kind, whose heads share keys and values."""
    return patcher(
        comfy.supported_models.Lumina2(
            _LUMINA_SHAPE
            | {
                "dim": WIDTH,
                "n_heads": HEADS,
                "n_kv_heads": 1,
                "axes_dims": AXES,
                "axes_lens": (300, 512, 512),
            }
        ),
        seed,
    )


def z_image(seed: int, config: type[BASE] | None = None, **changed: Any) -> ModelPatcher:
    """A Lumina of the Z-Image kind, which fills up both text and image to 32 tokens."""
    return patcher(
        (config or comfy.supported_models.ZImage)(
            _LUMINA_SHAPE
            | {
                "dim": 256,  # the least that its modulation can have
                "n_heads": 8,
                "n_kv_heads": 8,
                "axes_dims": (8, 12, 12),
                "axes_lens": (300, 512, 512),
                "rope_theta": 256.0,
                "ffn_dim_multiplier": 1.0,
                "z_image_modulation": True,
                "time_scale": 1000.0,
                "pad_tokens_multiple": 32,
            }
            | changed
        ),
        seed,
    )


_LUMINA_SHAPE = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "cap_feat_dim": CONTEXT_WIDTH,
    "n_layers": 4,
    "n_refiner_layers": 1,
    "multiple_of": 32,
    "qk_norm": True,
}


def qwen_image(seed: int) -> ModelPatcher:
    """A flow MMDiT of the Qwen-Image kind: latents of a single frame."""
    return patcher(
        comfy.supported_models.QwenImage(
            {
                "image_model": "qwen_image",
                "in_channels": 64,
                "num_layers": 4,
                "attention_head_dim": WIDTH // HEADS,
                "num_attention_heads": HEADS,
                "joint_attention_dim": CONTEXT_WIDTH,
                "axes_dims_rope": AXES,
            }
        ),
        seed,
    )


def video_model(
    seed: int, config: type[BASE] = comfy.supported_models.WAN21_T2V, **changed: Any
) -> ModelPatcher:
    """A flow transformer of the Wan kind: latents of 16 channels, frames, height and width."""
    return patcher(
        config(
            {
                "image_model": "wan2.1",
                "model_type": "t2v",
                "dim": WIDTH,
                "ffn_dim": 64,
                "freq_dim": 32,
                "text_dim": CONTEXT_WIDTH,
                "num_heads": HEADS,
                "num_layers": 4,
                "in_dim": 16,
                "out_dim": 16,
            }
            | changed
        ),
        seed,
    )


# Releases after 0.3.75 have the text first, as in Flux.
HUNYUAN_HAS_IMAGE_FIRST = (
    "flipped_img_txt" in signature(comfy.ldm.hunyuan_video.model.DoubleStreamBlock).parameters
)


def hunyuan_video(
    seed: int, config: type[BASE] = comfy.supported_models.HunyuanVideo, **changed: Any
) -> ModelPatcher:
    """A flow transformer of the HunyuanVideo kind: like Flux, for videos."""
    later = {
        "byt5": False,
        "meanflow": False,
        "use_cond_type_embedding": False,
        "vision_in_dim": None,
        "meanflow_sum": False,
    }
    return patcher(
        config(
            FLUX_SHAPE
            | {
                "image_model": "hunyuan_video",
                "in_channels": 16,
                "out_channels": 16,
                "vec_in_dim": POOLED_WIDTH,
                "theta": 256,
                "patch_size": [1, 2, 2],
                "guidance_embed": True,
            }
            | known(comfy.ldm.hunyuan_video.model.HunyuanVideoParams, later)
            | changed
        ),
        seed,
    )


def aura_flow(seed: int) -> ModelPatcher:
    """A flow MMDiT of the AuraFlow kind: 8 tokens of its own before the text."""
    return patcher(
        comfy.supported_models.AuraFlow(
            {
                "cond_seq_dim": CONTEXT_WIDTH,
                "max_seq": 16 * 16,
                "dim": WIDTH,
                "n_heads": HEADS,
                "global_conddim": WIDTH,
                "n_double_layers": 3,
                "n_layers": 7,
            }
        ),
        seed,
    )


def pixart(seed: int) -> ModelPatcher:
    """An eps-prediction transformer of the PixArt kind, which has no patch points at all."""
    return patcher(
        comfy.supported_models.PixArtSigma(
            {
                "image_model": "pixart_sigma",
                "hidden_size": WIDTH,
                "depth": 4,
                "num_heads": HEADS,
                "mlp_ratio": 2.0,
                "caption_channels": CONTEXT_WIDTH,
                "pe_interpolation": 1,
                "micro_condition": False,
            }
        ),
        seed,
    )


def control_net(main: ModelPatcher) -> comfy.controlnet.ControlNet:
    """A control net for the digits model, whose hint is an image of 16 channels."""
    network = comfy.cldm.mmdit.ControlNet(
        num_blocks=2,
        operations=comfy.ops.disable_weight_init,
        **main.model.model_config.unet_config,
    )
    _random_weights(network, 5)
    return comfy.controlnet.ControlNet(
        network.eval(), compression_ratio=1, load_device=main.load_device
    )


@dataclass(frozen=True)
class Architecture:
    """One family of diffusion models, with all that a test needs to sample from a member of it."""

    name: str
    build: Callable[[int], ModelPatcher]
    latent: tuple[int, ...]
    blocks: tuple[str, ...]
    """Where on the diffusion model its blocks are, list by list."""
    conditioning: Callable[[int], Conditioning] = text
    patch: tuple[int, int, int] = (1, 2, 2)
    """Of a transformer: how much of the latent is one token, in frames, rows and columns."""
    beside: tuple[tuple[int, ...], ...] = ()
    """Shapes of what is sampled along with the latent: sound, a camera."""


# Not square, so that an exchange of height and width shows.
_IMAGE = (2, 16, 8, 12)
_UNET_BLOCKS = ("input_blocks", "middle_block", "output_blocks")
_FLUX_BLOCKS = ("double_blocks", "single_blocks")

ARCHITECTURES = [
    Architecture("sd15", unet, (2, 4, 8, 12), _UNET_BLOCKS),
    Architecture("sdxl", sdxl, (2, 4, 8, 12), _UNET_BLOCKS),
    Architecture("sd3", sd3, _IMAGE, ("joint_blocks",)),
    Architecture("sd35", partial(sd3, dual_attention=(1,)), _IMAGE, ("joint_blocks",)),
    Architecture("flux", flux, _IMAGE, _FLUX_BLOCKS),
    Architecture("chroma", chroma, _IMAGE, _FLUX_BLOCKS),
    Architecture("lumina", lumina, _IMAGE, ("layers",), masked_text),
    Architecture("qwen_image", qwen_image, (2, 16, 1, 8, 12), ("transformer_blocks",)),
    Architecture("wan", video_model, (2, 16, 2, 8, 12), ("blocks",)),
    Architecture("hunyuan_video", hunyuan_video, (2, 16, 2, 8, 12), _FLUX_BLOCKS),
    Architecture("aura_flow", aura_flow, (2, 4, 8, 12), ("double_layers", "single_layers")),
    # Its table of positions divides by zero for images much smaller than this.
    Architecture("pixart", pixart, (2, 4, 28, 40), ("blocks",)),
]
if hasattr(comfy.supported_models, "ZImage"):  # not yet in the oldest release of ComfyUI
    ARCHITECTURES.append(Architecture("z_image", z_image, _IMAGE, ("layers",)))
BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
