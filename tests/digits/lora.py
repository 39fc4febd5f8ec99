"""Train a LoRA on the main model: low-rank additions to its weights that make its digits bold.

    cd tests && ../build/venv/bin/python -m digits.lora

It starts from the stored models, so that this command and `make models` end with the same file.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from .comfyui import start_comfyui
from .progress import Progress

# Where the picture's own stream is changed, in every block.
ADAPTED = ("x_block.attn.qkv", "x_block.attn.proj", "x_block.mlp.fc1", "x_block.mlp.fc2")


@dataclass(frozen=True)
class LoraRecipe:
    """How the LoRA is made.

    Attributes:
        rank: of each addition.
        steps: training steps; the learning rate falls to 0 over them.
        batch: samples per step.
        learning_rate: of AdamW, at the start.
        seed: for the additions and everything drawn.
    """

    rank: int
    steps: int
    batch: int
    learning_rate: float
    seed: int


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
    """Train on bold digits and write `digits_bold_lora.safetensors` beside the models."""
    # These import ComfyUI, which must have been started before.
    from .diffusion import adamw, encode_pictures, flow_matching_loss, optimize
    from .sampling import load_models

    models = load_models(folder)
    network = models.main.model.diffusion_model.requires_grad_(False)
    vae = models.vae.first_stage_model
    banks = encode_pictures(vae, copies=2, seed=recipe.seed, sizes=[(8, 8)], bold=True)
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


RECIPE = LoraRecipe(rank=4, steps=700, batch=32, learning_rate=3e-3, seed=4)


def main() -> None:
    """The command line."""
    from .evaluate import ASSETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the models")
    options = parser.parse_args()
    start_comfyui()
    train_lora(options.out, RECIPE)


if __name__ == "__main__":
    main()
