"""Fréchet distance between two sets of features, and the features of the real digits."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from digits.classifier import picture_features
from digits.pictures import digit_split, draw


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """``‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½)`` (Heusel et al. 2017, arXiv 1706.08500).

    Args:
        a: features, [n, d].
        b: features, [m, d].
    """
    difference = a.mean(axis=0) - b.mean(axis=0)
    covariances = np.cov(a.T), np.cov(b.T)
    root = _square_root(covariances[0])
    # Has the trace of (Σ_a Σ_b)^½, and is symmetric, so that no imaginary part arises.
    values = np.linalg.eigvalsh(root @ covariances[1] @ root)
    cross = np.sqrt(np.clip(values, 0, None)).sum()
    return float(difference @ difference + sum(np.trace(c) for c in covariances) - 2 * cross)


@cache
def real_features(without: int | None = None) -> np.ndarray:
    """Features of the 1,797 real digits, [n, 64], all or all but one kind."""
    split = digit_split()
    images = torch.cat([split.train_images, split.held_out_images])
    labels = torch.cat([split.train_labels, split.held_out_labels])
    if without is not None:
        images = images[labels != without]
    pictures = draw(images, torch.Generator().manual_seed(0))
    return picture_features(pictures.movedim(1, -1))


def _square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
