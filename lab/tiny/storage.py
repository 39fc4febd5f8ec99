"""How the weights are stored: two precisions, so that the models stay small.

Matrices that matter less are stored as float8_e4m3fn, everything else as float16. ComfyUI's
loaders cast every tensor to one run-time precision, which they choose from the most frequent
stored one (`comfy.utils.weight_dtype` counts elements), so float8 must stay below half of the
elements. Training goes on after the rounding, with the rounded matrices frozen, so that the others
make up for it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

# The context stream carries two one-hot tokens only; an encoder's error is the decoder's to mend.
COARSE_PARTS = ("context_block.", "taesd_encoder.")


def storage_dtype(name: str, tensor: Tensor, coarse: Sequence[str] = COARSE_PARTS) -> torch.dtype:
    """Precision in which the tensor of this name is stored."""
    is_coarse = tensor.ndim > 1 and any(part in name for part in coarse)
    return torch.float8_e4m3fn if is_coarse else torch.float16


@torch.no_grad()
def freeze_rounded(module: nn.Module) -> None:
    """Round the matrices that are stored as float8, in place, and exclude them from training."""
    for name, parameter in module.named_parameters():
        dtype = storage_dtype(name, parameter)
        if dtype == torch.float8_e4m3fn:
            parameter.copy_(parameter.to(dtype))
            parameter.requires_grad_(False)


def save_weights(
    module: nn.Module,
    path: Path,
    recipe: dict[str, int | float],
    coarse: Sequence[str] = COARSE_PARTS,
) -> None:
    """Write the module's state dict in its storage precisions, with its recipe as metadata.

    Args:
        coarse: parts of the names of what is stored as float8, and was trained as such.
    """
    stored = {
        name: tensor.detach().to(storage_dtype(name, tensor, coarse)).contiguous()
        for name, tensor in module.state_dict().items()
    }
    rounded = sum(t.numel() for t in stored.values() if t.dtype == torch.float8_e4m3fn)
    assert rounded < 0.5 * sum(t.numel() for t in stored.values()), "float16 must stay the majority"
    save_file(stored, path, metadata={"recipe": json.dumps(recipe)})
