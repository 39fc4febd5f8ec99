"""Train the models of the world: a good one, and bad versions of it.

    make playground

Runs on the CPU, in a few minutes. With one thread (``OMP_NUM_THREADS=1``) it writes the same
numbers each time on the same machine and version of torch.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .denoiser import Denoiser
from .distribution import DEVIATION, EMPTY, Mixture, world

WEIGHTS = Path(__file__).with_name("weights.safetensors")

# Noise levels are drawn with these mean and standard deviation of their natural logarithms.
_LOG_SIGMA = (-2.3, 1.5)
# How often the label is left out, for the prediction that an empty prompt gets. As rarely as is
# usual, so that it is trained least: part of what classifier-free guidance does comes from that.
_DROPOUT = 0.1


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Attributes:
        width: units in each hidden layer.
        layers: how many hidden layers.
        steps: of training.
        batch: points in each step.
        learning_rate: of Adam, where it is greatest.
        warm_steps: after so many steps it begins to fall, with the inverse square root.
        average: of the weights, over so large a share of the steps done.
        seed: for the weights and everything drawn.
    """

    width: int
    layers: int = 4
    steps: int = 4096
    batch: int = 4096
    learning_rate: float = 1e-2
    warm_steps: int = 512
    average: float = 0.1
    seed: int = 0


# The bad versions: by less capacity and less training, as in the paper, and by one of them alone.
# A quarter of the training here, an eighth there: with an eighth, a scale of 2 already draws this
# world's branches thinner than they are.
RECIPES = {
    "main": Recipe(width=64, seed=1),
    "weak": Recipe(width=32, steps=1024, seed=2),
    "small": Recipe(width=32, seed=3),
    "short": Recipe(width=64, steps=1024, seed=4),
}


def train(recipe: Recipe, title: str, world: Mixture) -> Denoiser:
    """Train one model from scratch, printing its progress, and return its average."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = Denoiser(recipe.width, recipe.layers)
    average = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    started = time.monotonic()
    for step in range(recipe.steps):
        falling = max(1.0, step / recipe.warm_steps) ** -0.5
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * falling
        loss = matching_loss(model, world, recipe.batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # By a power of the steps done, so that it forgets the beginning at any length of training.
        decay = (1 - 1 / (step + 1)) ** (1 / recipe.average)
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if (step + 1) % 256 == 0 or step + 1 == recipe.steps:
            seconds = time.monotonic() - started
            print(
                f"{title}: {step + 1}/{recipe.steps}  loss {loss:.5f}  {seconds:.0f} s", flush=True
            )
    return average.requires_grad_(False)


def matching_loss(
    model: Denoiser, world: Mixture, batch: int, generator: torch.Generator
) -> Tensor:
    """How far the model is from the ideal prediction on a random batch; scalar.

    The ideal is known here, so that nothing but capacity and training limits a model: the squared
    difference from it, weighted for the same share of every noise level.
    """
    half = batch // 2
    points = [world.sample(n, label, generator) for label, n in enumerate((half, batch - half))]
    x = torch.cat(points).float()
    label = torch.arange(2).repeat_interleave(torch.tensor([half, batch - half]))
    dropped = torch.rand(batch, generator=generator) < _DROPOUT
    label = label.where(~dropped, EMPTY)
    mean, deviation = _LOG_SIGMA
    sigma = (mean + deviation * torch.randn(batch, generator=generator)).exp()
    x = x + sigma[:, None] * torch.randn(x.shape, generator=generator)
    ideal = world.denoised(x, sigma, label)
    weight = (sigma.square() + DEVIATION**2) / (sigma * DEVIATION).square()
    return (weight[:, None] * (model(x, sigma, label) - ideal).square()).mean()


def load(name: str, path: Path = WEIGHTS) -> Denoiser:
    """Load one of the models of ``RECIPES`` as it was trained, ready to predict."""
    prefix = f"{name}."
    tensors = {k[len(prefix) :]: v for k, v in load_file(path).items() if k.startswith(prefix)}
    recipe = RECIPES[name]
    model = Denoiser(recipe.width, recipe.layers)
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval()


def save(models: dict[str, Denoiser], path: Path = WEIGHTS) -> None:
    """Write models by name into one file, with their recipes."""
    tensors = {f"{name}.{k}": v for name, m in models.items() for k, v in m.state_dict().items()}
    recipes = {name: asdict(RECIPES[name]) for name in models}
    save_file(tensors, path, metadata={"recipes": json.dumps(recipes)})


def main() -> None:
    """The command line."""
    save({name: train(recipe, name, world()) for name, recipe in RECIPES.items()})


if __name__ == "__main__":
    main()
