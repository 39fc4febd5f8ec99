"""Train a model that has much left to learn, and bad versions of it that have more.

Guidance can only help a model that is not done. So these are stopped while they still learn, and a
bad version has had a part of the training, or has a smaller network, or both. The earlier one is a
snapshot from the main model's own training.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from .diffusion import Banks, train_averaged
from .recipes import FamilyRecipe, Recipe
from .storage import save_weights


def train_family(folder: Path, stem: str, recipe: FamilyRecipe, banks: Banks) -> None:
    """Train a main model and three bad versions of it, and write them.

    Args:
        folder: for the files.
        stem: what their names begin with; they end with ``_main.safetensors``, ``_earlier``,
            ``_smaller`` and ``_weak``, which is both.
        recipe: of all four.
        banks: latents of the images to learn.
    """
    main = recipe.main
    smaller = replace(main, depth=recipe.smaller_depth, seed=main.seed + 1)
    for of, early, late in ((main, "earlier", "main"), (smaller, "weak", "smaller")):
        generator = torch.Generator().manual_seed(of.seed)
        averages = train_averaged(of, banks, f"{late} model", generator)
        done = 0
        for steps, name in ((recipe.earlier_steps, early), (of.steps, late)):
            (average,) = itertools.islice(averages, steps - done - 1, steps - done)
            _save(average, folder / f"{stem}_{name}.safetensors", replace(of, steps=steps))
            done = steps


def _save(average: nn.Module, path: Path, recipe: Recipe) -> None:
    save_weights(average, path, asdict(recipe), coarse=())
