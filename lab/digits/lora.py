"""Train a LoRA on the main model: low-rank additions to its weights that make its digits bold."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tiny.progress import Progress
from tiny.recipes import LoraRecipe

from .pictures import training_source

# Where the image's own stream is changed, in every block.
ADAPTED = ("x_block.attn.qkv", "x_block.attn.proj", "x_block.mlp.fc1", "x_block.mlp.fc2")


class Lora(nn.Module):
    """Additions up·down to the matrices of a model, which itself stays as it is.

    Hu et al. 2021, arXiv 2106.09685, section 4.1, with α = r.
    """

    def __init__(self, model: nn.Module, rank: int) -> None:
        """Hang the additions, 0 at first, on the model."""
        super().__init__()
        adapted = {name: module for name, module in model.named_modules() if name.endswith(ADAPTED)}
        self.names = list(adapted)
        self.rank = rank
        self.downs, self.ups = nn.ParameterList(), nn.ParameterList()
        for module in adapted.values():
            outputs, inputs = module.weight.shape
            down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
            up = nn.Parameter(torch.zeros(outputs, rank))
            module.register_forward_hook(partial(_add, down, up))
            self.downs.append(down)
            self.ups.append(up)

    def state(self) -> dict[str, Tensor]:
        """The additions by the names under which ComfyUI looks for them, in float16."""
        state = {}
        for name, down, up in zip(self.names, self.downs, self.ups, strict=True):
            state[f"diffusion_model.{name}.lora_down.weight"] = down.detach().half()
            state[f"diffusion_model.{name}.lora_up.weight"] = up.detach().half()
            state[f"diffusion_model.{name}.alpha"] = torch.tensor(float(self.rank)).half()
        return state


def _add(
    down: Tensor, up: Tensor, module: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> Tensor:
    return output + F.linear(F.linear(inputs[0], down), up)


def train_lora(folder: Path, recipe: LoraRecipe) -> None:
    """Train on bold digits and write `digits_bold_lora.safetensors` beside the stored models."""
    # These import ComfyUI, which must have been started before.
    from tiny.diffusion import adamw, encode_pictures, flow_matching_loss, optimize
    from tiny.sampling import load_model, load_vae

    main = load_model(folder / "digits_main.safetensors")
    network = main.model.diffusion_model.requires_grad_(False)
    vae = load_vae(folder / "digits_vae.safetensors").first_stage_model
    banks = encode_pictures(
        vae, training_source("bold"), copies=2, seed=recipe.seed, sizes=[(8, 8)]
    )
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    lora = Lora(network, recipe.rank)
    optimizer = adamw(lora, recipe.learning_rate)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=recipe.steps)
    progress = Progress("LoRA", recipe.steps)
    for _ in range(recipe.steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = flow_matching_loss(network, banks, recipe.batch, generator)
        optimize(lora, optimizer, fall, loss)
        progress.step(loss=loss.item())
    path = folder / "digits_bold_lora.safetensors"
    save_file(lora.state(), path, metadata={"recipe": json.dumps(asdict(recipe))})
