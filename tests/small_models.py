"""Core architectures built small, with random weights, where the digits model cannot stand in."""

from __future__ import annotations

import comfy.cldm.mmdit
import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from rig import Conditioning

CONTEXT_WIDTH = 24


def _text(seed: int) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 5, CONTEXT_WIDTH, generator=generator), {}]]


conditionings = (_text(1), _text(2))


def _random_weights(network: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.15 * torch.randn(parameter.shape, generator=generator)


def _patcher(config: comfy.supported_models.SD15, seed: int) -> ModelPatcher:
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=device)
    _random_weights(model.diffusion_model, seed)
    return ModelPatcher(model.eval(), load_device=device, offload_device=device)


def unet(seed: int, in_channels: int = 4) -> ModelPatcher:
    """An eps-prediction U-Net of the SD1.5 kind: latents of 4 channels, attention in the middle.

    With 9 input channels it is an inpainting model.
    """
    return _patcher(
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


def video_model(seed: int) -> ModelPatcher:
    """A flow transformer of the Wan kind: latents of 16 channels, frames, height and width."""
    return _patcher(
        comfy.supported_models.WAN21_T2V(
            {
                "image_model": "wan2.1",
                "model_type": "t2v",
                "dim": 48,
                "ffn_dim": 64,
                "freq_dim": 32,
                "text_dim": CONTEXT_WIDTH,
                "num_heads": 2,
                "num_layers": 2,
                "in_dim": 16,
                "out_dim": 16,
            }
        ),
        seed,
    )


def control_net(main: ModelPatcher) -> comfy.controlnet.ControlNet:
    """A control net for the digits model, whose hint is a picture of 16 channels."""
    network = comfy.cldm.mmdit.ControlNet(
        num_blocks=2,
        operations=comfy.ops.disable_weight_init,
        **main.model.model_config.unet_config,
    )
    _random_weights(network, 5)
    return comfy.controlnet.ControlNet(
        network.eval(), compression_ratio=1, load_device=main.load_device
    )
