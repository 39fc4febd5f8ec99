"""How tiny models are made, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How the autoencoder is made.

    Attributes:
        crop_steps, crop_batch: training of encoder and decoder on crops of 32x32 pixels.
        decoder_steps, decoder_batch: training of the decoder alone, on whole images.
        learning_rate: of AdamW, at its peak; the decoder alone trains at a quarter of it.
        seed: for the weights and everything drawn.
        warm_up: share of the steps in which the learning rate rises to its peak.
    """

    crop_steps: int
    crop_batch: int
    decoder_steps: int
    decoder_batch: int
    learning_rate: float
    seed: int
    warm_up: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """How one diffusion model is made.

    Attributes:
        depth: number of blocks; ComfyUI takes the width to be 64 times as much.
        steps: training steps with a constant learning rate.
        anneal_steps: steps after that, with the coarse matrices rounded and frozen, in float32,
            while the learning rate falls to 0.
        batch: samples per step.
        learning_rate: of AdamW.
        seed: for the weights and everything drawn.
    """

    depth: int
    steps: int
    anneal_steps: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class FamilyRecipe:
    """How a main model and its bad versions are made.

    Attributes:
        main: of the main model.
        smaller_depth: of the bad versions that are smaller; trained with the next seed.
        earlier_steps: after which the earlier ones are taken.
    """

    main: Recipe
    smaller_depth: int
    earlier_steps: int


@dataclass(frozen=True)
class LoraRecipe:
    """How a LoRA is made.

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


@dataclass(frozen=True)
class JudgeRecipe:
    """How a classifier is made.

    Attributes:
        steps: training steps; the learning rate falls to 0 over them.
        batch: images per step.
        learning_rate: of AdamW, at its peak.
        seed: for the weights and everything drawn.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int
