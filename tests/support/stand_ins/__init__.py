"""A node pack for tests on a real server: small random models in the place of files.

Each node stands in for one of ComfyUI's loaders, with its inputs and outputs, and is called after
it. What it gives is of the family of the file that the loader asks for, with as many blocks as a
template names; the text encoders and VAEs are no networks, but take and give what those would.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))

from support import newer_models, rare_models, rig, small_models


def _seed(text: str) -> int:
    return zlib.crc32(text.encode())


def _wan22(seed: int) -> ModelPatcher:
    """A Wan 2.2 5B: its latents have 48 channels."""
    return small_models.video_model(
        seed, config=comfy.supported_models.WAN22_T2V, in_dim=48, out_dim=48, num_layers=30
    )


class StandInVAE:
    """Latents to images and back, by the mean of their channels.

    Attributes:
        channels: of its latents.
        side: pixels of one place of a latent, in height and width.
    """

    def __init__(self, channels: int, side: int) -> None:
        self.channels, self.side = channels, side

    def decode(self, samples: Tensor) -> Tensor:
        """Images [B, (frames,) height, width, 3]; raises ValueError for what it cannot decode."""
        if samples.shape[1] != self.channels:
            raise ValueError(f"latents {tuple(samples.shape)}, where {self.channels} channels go")
        if not torch.isfinite(samples).all():
            raise ValueError("latents that are not finite")
        thirds = [part.mean(dim=1) for part in samples.tensor_split(3, dim=1)]
        images = torch.sigmoid(torch.stack(thirds, dim=-1))
        for dim in (-3, -2):
            images = images.repeat_interleave(self.side, dim=dim)
        return images

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents [B, channels, height, width]."""
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), self.side)
        repeats = -(-self.channels // 3)
        return small.repeat_interleave(repeats, dim=1)[:, : self.channels] * 2 - 1


class StandInTokenizer:
    """A number for each word, and the word again."""

    START, END, PADDING = 0, 1, 2

    def __init__(self) -> None:
        self._words: dict[int, str] = {}

    def tokens(self, text: str) -> list[int]:
        """Start, words, end, and padding up to a multiple of eight."""
        numbers = [3 + _seed(word) % 2**20 for word in text.split()]
        self._words |= zip(numbers, text.split(), strict=True)
        tokens = [self.START, *numbers, self.END]
        return tokens + [self.PADDING] * (-len(tokens) % 8)

    def untokenize(self, pairs: list[tuple[int, float]]) -> list[tuple[tuple[int, float], str]]:
        """Each token with its word."""
        return [(pair, self._words[pair[0]]) for pair in pairs]


class StandInCLIP:
    """A text encoder: each row is that of its token, and the pooled vector that of them all."""

    def __init__(self) -> None:
        self.tokenizer = StandInTokenizer()

    def clone(self) -> StandInCLIP:
        """Itself, as there is nothing to change."""
        return self

    def set_tokenizer_option(self, name: str, value: Any) -> None:
        """Take an option that means nothing here."""

    def tokenize(self, text: str) -> dict[str, list[list[tuple[int, float]]]]:
        """One chunk of tokens, each with the weight 1."""
        return {"words": [[(token, 1.0) for token in self.tokenizer.tokens(text)]]}

    def encode_from_tokens_scheduled(
        self, tokens: dict[str, list[list[tuple[int, float]]]]
    ) -> rig.Conditioning:
        """The conditioning of a text."""
        (chunk,) = tokens["words"]
        rows = [small_models.text(token)[0][0][:, :1] for token, _ in chunk]
        ((_, extras),) = small_models.text(_seed(str(chunk)))
        return [[torch.cat(rows, dim=1), extras]]


@dataclass(frozen=True)
class Family:
    """What stands in for the files of a family.

    Attributes:
        build: a small model, from the seed of its weights.
        vae: for its latents.
    """

    build: Callable[[int], ModelPatcher]
    vae: StandInVAE


SD = StandInVAE(4, 8)
SIXTEEN = StandInVAE(16, 8)

SDXL = Family(small_models.sdxl, SD)
SD35_MEDIUM = Family(
    partial(small_models.sd3, dual_attention=tuple(range(13)), num_blocks=24), SIXTEEN
)
Z_IMAGE = Family(small_models.z_image, SIXTEEN)

# By the files that templates load.
FAMILIES = {
    "v1-5-pruned-emaonly-fp16.safetensors": Family(small_models.unet, SD),
    "sd_xl_base_1.0.safetensors": SDXL,
    "Juggernaut-XL_v9_RunDiffusionPhoto_v2.safetensors": SDXL,
    "sd3.5_large_fp8_scaled.safetensors": Family(partial(small_models.sd3, num_blocks=38), SIXTEEN),
    "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors": SD35_MEDIUM,
    "flux1-dev.safetensors": Family(small_models.flux, SIXTEEN),
    "flux-2-klein-base-4b.safetensors": Family(
        partial(rare_models.flux2, guidance_embed=False), StandInVAE(128, 16)
    ),
    "Chroma1-HD-fp8mixed.safetensors": Family(small_models.chroma, SIXTEEN),
    "z_image_bf16.safetensors": Z_IMAGE,
    "z_image_turbo_bf16.safetensors": Z_IMAGE,
    "qwen_image_2512_fp8_e4m3fn.safetensors": Family(small_models.qwen_image, SIXTEEN),
    "wan2.2_ti2v_5B_fp16.safetensors": Family(_wan22, StandInVAE(48, 16)),
    "anima-base-v1.0.safetensors": Family(partial(newer_models.anima, num_blocks=28), SIXTEEN),
}
VAES = {
    "ae.safetensors": SIXTEEN,
    "flux2-vae.safetensors": StandInVAE(128, 16),
    "qwen_image_vae.safetensors": SIXTEEN,
    "wan2.2_vae.safetensors": StandInVAE(48, 16),
}


def _schema(loader: str, inputs: list[Any], outputs: list[Any]) -> io.Schema:
    return io.Schema(
        node_id=f"StandIn{loader}",
        display_name=f"Stand-in for {loader}",
        category="tests",
        inputs=inputs,
        outputs=outputs,
    )


def _strings(*names: str) -> list[io.String.Input]:
    return [io.String.Input(name) for name in names]


class CheckpointLoaderSimple(io.ComfyNode):
    """A model, its text encoder and its VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [io.Model.Output(), io.Clip.Output(), io.Vae.Output()]
        return _schema("CheckpointLoaderSimple", _strings("ckpt_name"), outputs)

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        family = FAMILIES[ckpt_name]
        return io.NodeOutput(family.build(_seed(ckpt_name)), StandInCLIP(), family.vae)


class UNETLoader(io.ComfyNode):
    """A model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("UNETLoader", _strings("unet_name", "weight_dtype"), [io.Model.Output()])

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(FAMILIES[unet_name].build(_seed(unet_name)))


class CLIPLoader(io.ComfyNode):
    """A text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("CLIPLoader", _strings("clip_name", "type", "device"), [io.Clip.Output()])

    @classmethod
    def execute(cls, **_: str) -> io.NodeOutput:
        return io.NodeOutput(StandInCLIP())


class DualCLIPLoader(io.ComfyNode):
    """A text encoder from two files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = _strings("clip_name1", "clip_name2", "type", "device")
        return _schema("DualCLIPLoader", inputs, [io.Clip.Output()])

    @classmethod
    def execute(cls, **_: str) -> io.NodeOutput:
        return io.NodeOutput(StandInCLIP())


class VAELoader(io.ComfyNode):
    """A VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("VAELoader", _strings("vae_name"), [io.Vae.Output()])

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        return io.NodeOutput(VAES[vae_name])


class LoraLoaderModelOnly(io.ComfyNode):
    """A LoRA on all attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Model.Input("model"),
            io.String.Input("lora_name"),
            io.Float.Input("strength_model"),
        ]
        return _schema("LoraLoaderModelOnly", inputs, [io.Model.Output()])

    @classmethod
    def execute(cls, model: ModelPatcher, lora_name: str, strength_model: float) -> io.NodeOutput:
        return io.NodeOutput(rig.add_weights(model, strength_model, _seed(lora_name)))


class StandInsExtension(ComfyExtension):
    """What ComfyUI registers."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            CheckpointLoaderSimple,
            UNETLoader,
            CLIPLoader,
            DualCLIPLoader,
            VAELoader,
            LoraLoaderModelOnly,
        ]


async def comfy_entrypoint() -> StandInsExtension:
    """Called by ComfyUI when it loads this folder as a custom node."""
    return StandInsExtension()
