"""The model files of the templates, as ComfyUI's own templates name and place them."""

from __future__ import annotations

from .graph import File

_HUB = "https://huggingface.co"


def _file(directory: str, repository: str, path: str) -> File:
    name = path.rpartition("/")[2].removesuffix("?download=true")
    return File(name, directory, f"{_HUB}/{repository}/resolve/main/{path}")


def _part(directory: str, repository: str, name: str) -> File:
    """A file of a repository in the layout of Comfy-Org."""
    return _file(directory, repository, f"split_files/{directory}/{name}")


SD15 = _file(
    "checkpoints",
    "Comfy-Org/stable-diffusion-v1-5-archive",
    "v1-5-pruned-emaonly-fp16.safetensors",
)
SDXL = _file(
    "checkpoints",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "sd_xl_base_1.0.safetensors?download=true",
)
SDXL_FINETUNE = _file(
    "checkpoints",
    "RunDiffusion/Juggernaut-XL-v9",
    "Juggernaut-XL_v9_RunDiffusionPhoto_v2.safetensors",
)
SD35_LARGE = _file(
    "checkpoints",
    "Comfy-Org/stable-diffusion-3.5-fp8",
    "sd3.5_large_fp8_scaled.safetensors?download=true",
)
SD35_MEDIUM = _file(
    "checkpoints",
    "Comfy-Org/stable-diffusion-3.5-fp8",
    "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors",
)

FLUX1_DEV = _file("diffusion_models", "Comfy-Org/flux1-dev", "flux1-dev.safetensors")
CLIP_L = _file("text_encoders", "comfyanonymous/flux_text_encoders", "clip_l.safetensors")
T5_XXL = _file("text_encoders", "comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors")
T5_XXL_FP8 = _file(
    "text_encoders", "comfyanonymous/flux_text_encoders", "t5xxl_fp8_e4m3fn_scaled.safetensors"
)
FLUX1_VAE = _part("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "ae.safetensors")

CHROMA = _part(
    "diffusion_models", "Comfy-Org/Chroma1-HD_repackaged", "Chroma1-HD-fp8mixed.safetensors"
)

FLUX2_KLEIN_BASE = _part(
    "diffusion_models", "Comfy-Org/flux2-klein", "flux-2-klein-base-4b.safetensors"
)
FLUX2_TEXT = _part("text_encoders", "Comfy-Org/flux2-klein", "qwen_3_4b.safetensors")
FLUX2_VAE = _part("vae", "Comfy-Org/flux2-dev", "flux2-vae.safetensors")

Z_IMAGE = _part("diffusion_models", "Comfy-Org/z_image", "z_image_bf16.safetensors")
Z_IMAGE_TURBO = _part(
    "diffusion_models", "Comfy-Org/z_image_turbo", "z_image_turbo_bf16.safetensors"
)
Z_IMAGE_TURBO_LORA = _file(
    "loras",
    "tarn59/pixel_art_style_lora_z_image_turbo",
    "pixel_art_style_z_image_turbo.safetensors",
)
Z_IMAGE_TEXT = _part("text_encoders", "Comfy-Org/z_image_turbo", "qwen_3_4b.safetensors")
Z_IMAGE_VAE = _part("vae", "Comfy-Org/z_image_turbo", "ae.safetensors")

_QWEN_IMAGE = "Comfy-Org/Qwen-Image_ComfyUI"
QWEN_IMAGE = _part("diffusion_models", _QWEN_IMAGE, "qwen_image_2512_fp8_e4m3fn.safetensors")
QWEN_IMAGE_TEXT = _part("text_encoders", _QWEN_IMAGE, "qwen_2.5_vl_7b_fp8_scaled.safetensors")
QWEN_IMAGE_VAE = _part("vae", _QWEN_IMAGE, "qwen_image_vae.safetensors")

_ANIMA = "circlestone-labs/Anima"
ANIMA = _part("diffusion_models", _ANIMA, "anima-base-v1.0.safetensors")
ANIMA_TEXT = _part("text_encoders", _ANIMA, "qwen_3_06b_base.safetensors")
ANIMA_VAE = _part("vae", _ANIMA, "qwen_image_vae.safetensors")

WAN22_5B = _part(
    "diffusion_models",
    "Comfy-Org/Wan_2.2_ComfyUI_Repackaged",
    "wan2.2_ti2v_5B_fp16.safetensors",
)
WAN_TEXT = _part(
    "text_encoders",
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
)
WAN22_VAE = _part("vae", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged", "wan2.2_vae.safetensors")

# What none of ComfyUI's own templates loads, and why it is taken all the same.
ELSEWHERE = {
    SD15.name: "ComfyUI's own default graph asks for it, and no template does",
    SD35_MEDIUM.name: "lies beside SD3.5 Large in the repository that the templates name",
    SDXL_FINETUNE.name: "no template loads a finetune of SDXL",
}
