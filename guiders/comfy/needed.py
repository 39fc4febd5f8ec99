"""What the pack needs of ComfyUI, by name, and whether the running release has it all."""

from __future__ import annotations

import importlib
from operator import attrgetter

import torch

# In every release from 0.3.52, the oldest that the pack is for, to 0.33.0.
NEEDED = {
    "comfy.context_windows": ("ContextHandlerABC",),
    "comfy.hooks": ("AdditionalModelsHook", "HookGroup"),
    "comfy.ldm.modules.attention": ("optimized_attention_masked",),
    "comfy.lora": ("calculate_weight",),
    "comfy.model_management": (
        "InterruptProcessingException",
        "OOM_EXCEPTION",
        "cast_to_device",
        "throw_exception_if_processing_interrupted",
    ),
    "comfy.model_patcher": (
        "LowVramPatch",
        "ModelPatcher",
        "create_hook_patches_clone",
        "create_model_options_clone",
        "get_key_weight",
    ),
    "comfy.patcher_extension": (
        "PatcherInjection",
        "WrappersMP.APPLY_MODEL",
        "WrappersMP.CALC_COND_BATCH",
        "WrappersMP.OUTER_SAMPLE",
        "WrappersMP.PREDICT_NOISE",
        "WrappersMP.PREPARE_SAMPLING",
        "WrappersMP.SAMPLER_SAMPLE",
        "add_wrapper_with_key",
    ),
    "comfy.sampler_helpers": ("convert_cond",),
    "comfy.samplers": (
        "CFGGuider.inner_sample",
        "CFGGuider.outer_sample",
        "CFGGuider.sample",
        "CFGGuider.set_cfg",
        "CFGGuider.set_conds",
        "Sampler",
        "calc_cond_batch",
        "get_area_and_mult",
    ),
    "comfy.sd": ("CLIP.encode_from_tokens_scheduled", "CLIP.tokenize"),
    "comfy.utils": ("get_attr", "set_attr", "set_attr_param"),
    "comfy.weight_adapter": ("WeightAdapterBase",),
}
NEEDED_ON_PATCHERS = (
    "additional_models",
    "attachments",
    "backup",
    "cached_hook_patches",
    "callbacks",
    "detach",
    "eject_model",
    "hook_backup",
    "hook_patches",
    "hook_patches_backup",
    "inject_model",
    "injections",
    "object_patches",
    "object_patches_backup",
    "patch_hooks",
    "partially_load",
    "patch_weight_to_device",
    "patches",
    "patches_uuid",
    "pre_run",
    "size",
    "skip_injection",
    "unpatch_model",
    "use_ejected",
    "weight_inplace_update",
    "wrappers",
)


def missing_names() -> list[str]:
    """What of all this the running ComfyUI has not, by full name."""
    missing = []
    for module_name, names in NEEDED.items():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:
            missing.append(module_name)
            continue
        for name in names:
            try:
                attrgetter(name)(module)
            except AttributeError:
                missing.append(f"{module_name}.{name}")
    if not missing:
        from comfy.model_patcher import ModelPatcher

        cpu = torch.device("cpu")
        patcher = ModelPatcher(torch.nn.Module(), cpu, cpu)
        missing = [
            f"comfy.model_patcher.ModelPatcher.{name}"
            for name in NEEDED_ON_PATCHERS
            if not hasattr(patcher, name)
        ]
    return missing


def require_names() -> None:
    """Raise ``ImportError`` with the names of what is missing; ComfyUI goes on without the pack."""
    missing = missing_names()
    if missing:
        from comfyui_version import __version__

        raise ImportError(
            f"Bad-Version Guider cannot be loaded: ComfyUI {__version__} has no "
            f"{', '.join(missing)}. It is tested on ComfyUI 0.3.52 to 0.33.0; look for a newer "
            "version of the pack."
        )
