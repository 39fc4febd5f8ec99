"""ComfyUI's text encoders with its own tokenizers, and small random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.text_encoders
import pytest
import torch
from comfy import sd1_clip, sdxl_clip
from comfy.text_encoders import flux, hunyuan_video, llama, qwen_image, sd3_clip

WIDTH = 16
_CLIP = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "projection_dim": WIDTH,
}
_T5 = {"d_model": WIDTH, "d_ff": WIDTH, "d_kv": 8, "num_heads": 2, "num_layers": 2}
_QWEN = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
}
SIZES = {
    "clip_l_model_config": _CLIP,
    "clip_g_model_config": _CLIP,
    "t5xxl_model_config": _T5,
    "llama_model_config": {**_QWEN, "num_hidden_layers": 4},
}


class _WideT5(sd3_clip.T5XXLModel):
    """As wide as the rows beside which SD3's class puts it."""

    def encode_token_weights(self, tokens: Any) -> Any:
        rows, *rest = super().encode_token_weights(tokens)
        return torch.nn.functional.pad(rows, (0, 4096 - rows.shape[-1])), *rest


class _SD3(sd3_clip.SD3ClipModel):
    def __init__(self, model_options: Any, t5: bool = True, clip: bool = True, **rest: Any) -> None:
        super().__init__(clip, clip, t5=False, model_options=model_options, **rest)
        self.t5_attention_mask = False
        if t5:
            self.t5xxl = _WideT5(model_options=model_options)


class _Qwen(sd1_clip.SDClipModel):
    """A language model without its eyes; ``layer`` may be several, for Flux 2."""

    def __init__(self, model_options: Any, layer: Any = "last", **rest: Any) -> None:
        super().__init__(
            layer=layer,
            textmodel_json_config=dict(_QWEN),
            special_tokens={"pad": 151643},
            layer_norm_hidden_state=False,
            model_class=llama.Qwen25_3B,
            enable_attention_masks=True,
            return_attention_masks=True,
            model_options=model_options,
            **rest,
        )


class _QwenImage(qwen_image.QwenImageTEModel):
    def __init__(self, **rest: Any) -> None:
        super(qwen_image.QwenImageTEModel, self).__init__(
            name="qwen25_7b", clip_model=_Qwen, **rest
        )


class _PadsInFront(qwen_image.Qwen25_7BVLITokenizer):
    """With its padding first, as the tokenizers of LTX-2 and FLUX.2 dev have it."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.pad_left, self.min_length = True, 64


class _PadsInFrontTokenizer(sd1_clip.SD1Tokenizer):
    def __init__(self, **rest: Any) -> None:
        super().__init__(name="padded", tokenizer=_PadsInFront, **rest)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **rest: Any) -> Any:
        return super().tokenize_with_weights(
            f"<|im_start|>{text}<|im_end|>", return_word_ids, **rest
        )


class _PadsInFrontModel(sd1_clip.SD1ClipModel):
    def __init__(self, **rest: Any) -> None:
        super().__init__(name="padded", clip_model=_Qwen, **rest)
        # What is masked, releases before 0.33 do not know of padding in front.
        self.padded.enable_attention_masks = False


def _klein() -> tuple[Any, Any]:
    class Model(flux.Flux2TEModel):
        def __init__(self, **rest: Any) -> None:
            super().__init__(name="qwen3_4b", clip_model=Layers, **rest)

    class Layers(_Qwen):
        def __init__(self, **rest: Any) -> None:
            super().__init__(layer=[0, 1, 2], **rest)

    return Model, flux.KleinTokenizer


def _z_image() -> tuple[Any, Any]:
    z_image = importlib.import_module("comfy.text_encoders.z_image")

    class Model(sd1_clip.SD1ClipModel):
        def __init__(self, **rest: Any) -> None:
            super().__init__(name="qwen3_4b", clip_model=_Qwen, **rest)

    return Model, z_image.ZImageTokenizer


def _with(model: Any, **fixed: Any) -> Callable[..., Any]:
    return lambda **rest: model(**fixed, **rest)


# By name: the encoder and its tokenizer, or what makes them where not all releases have them.
ENCODERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "sd1": lambda: (sd1_clip.SD1ClipModel, sd1_clip.SD1Tokenizer),
    "sdxl": lambda: (sdxl_clip.SDXLClipModel, sdxl_clip.SDXLTokenizer),
    "sd3": lambda: (_SD3, sd3_clip.SD3Tokenizer),
    "sd3_without_t5": lambda: (_with(_SD3, t5=False), sd3_clip.SD3Tokenizer),
    "sd3_with_t5_alone": lambda: (_with(_SD3, clip=False), sd3_clip.SD3Tokenizer),
    "flux": lambda: (flux.FluxClipModel, flux.FluxTokenizer),
    "qwen_image": lambda: (_QwenImage, qwen_image.QwenImageTokenizer),
    "hunyuan_video": lambda: (
        hunyuan_video.HunyuanVideoClipModel,
        hunyuan_video.HunyuanVideoTokenizer,
    ),
    "pads_in_front": lambda: (_PadsInFrontModel, _PadsInFrontTokenizer),
    "klein": _klein,
    "z_image": _z_image,
}


def text_encoder(name: str) -> comfy.sd.CLIP:
    """A small text encoder of a kind; the test is skipped where this release has none."""
    folder = Path(comfy.text_encoders.__path__[0])
    if name == "hunyuan_video" and not (folder / "llama_tokenizer" / "tokenizer.json").exists():
        pytest.skip("this copy of ComfyUI has no tokenizer of Llama")
    if name == "klein" and not hasattr(flux, "KleinTokenizer"):
        pytest.skip("this release has no FLUX.2 klein")
    if name == "z_image" and not (folder / "z_image.py").exists():
        pytest.skip("this release has no Z-Image")
    if name == "pads_in_front" and not hasattr(sd1_clip.SDTokenizer, "pad_tokens"):
        pytest.skip("no tokenizer of this release pads in front")
    model, tokenizer = ENCODERS[name]()
    cpu = torch.device("cpu")
    options = {"load_device": cpu, "offload_device": cpu, "initial_device": cpu}
    target = SimpleNamespace(params={}, clip=model, tokenizer=tokenizer)
    clip = comfy.sd.CLIP(target, model_options={**SIZES, **options, "dtype": torch.float32})
    generator = torch.Generator().manual_seed(1)
    for key, weight in clip.cond_stage_model.named_parameters():
        weight.data.normal_(generator=generator)
        if weight.ndim < 2:
            # Of norms and biases.
            weight.data.mul_(0.1).add_(1.0 if key.endswith("weight") else 0.0)
        elif "embed" not in key and "shared" not in key:
            weight.data.div_(weight.shape[-1] ** 0.5)
    return clip
