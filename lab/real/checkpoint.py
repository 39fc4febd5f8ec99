"""A full-size SD1.5 of random weights, with its text encoder and autoencoder: 2 GB in 16 bits.

It draws nothing but noise. With it, the way of a template through the ordinary loaders, on the size
that they are for, can be tried where there is no real checkpoint.

    make lab RUN="real.checkpoint FOLDER/checkpoints/v1-5-pruned-emaonly-fp16.safetensors"
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tiny.comfyui import start_comfyui

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4),
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "use_spatial_transformer": True,
    "context_dim": 768,
}
AUTOENCODER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def shapes() -> dict[str, Tensor]:
    """Every tensor of the checkpoint by the name that it has there, without numbers in it."""
    start_comfyui()
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.sd1_clip import SD1ClipModel
    from comfy.supported_models import SD15

    names = SD15(UNET)
    kind = {"device": "meta", "dtype": torch.float16}
    unet = UNetModel(**UNET, **kind, operations=comfy.ops.disable_weight_init)
    with torch.device("meta"):
        autoencoder = AutoencoderKL(ddconfig=AUTOENCODER, embed_dim=4).half()
    return {
        **names.process_unet_state_dict_for_saving(unet.state_dict()),
        **names.process_clip_state_dict_for_saving(SD1ClipModel(**kind).state_dict()),
        **names.process_vae_state_dict_for_saving(autoencoder.state_dict()),
    }


def filled(tensors: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Random numbers with which what goes through a layer keeps its size, in 16 bits."""
    generator = torch.Generator().manual_seed(seed)

    def fill(name: str, like: Tensor) -> Tensor:
        if like.ndim < 2:
            # Of what is one-dimensional, weights are those of norms.
            value = 1.0 if name.endswith("weight") else 0.0
            return torch.full(like.shape, value, dtype=torch.float16)
        size = 0.02 if "embedding" in name else like[0].numel() ** -0.5
        numbers = torch.randn(like.shape, generator=generator, dtype=torch.float32)
        return (size * numbers).half()

    return {name: fill(name, like) for name, like in tensors.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="of the file")
    path = parser.parse_args(arguments).path
    weights = filled(shapes())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    count = sum(each.numel() for each in weights.values())
    print(f"Wrote {count / 1e9:.2f} billion parameters to {path}.")


if __name__ == "__main__":
    sys.exit(main())
