"""A classifier that reads digits off images, and knows nothing of the diffusion models.

A support vector machine on real digits only. It needs scikit-learn and torch, not ComfyUI:

    from digits.classifier import held_out_accuracy, read_digits
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.svm import SVC
from torch import Tensor

from .pictures import Stroke, digit_split, draw

# Each training digit is seen plain and this many times with a small random shift, turn and
# stretch, as the diffusion models' images have them.
AUGMENTED_COPIES = 3


@cache
def digit_classifier() -> SVC:
    """The classifier, trained on the 1,437 training digits in about a second; always the same."""
    split = digit_split()
    generator = torch.Generator().manual_seed(0)
    pictures = [draw(split.train_images, generator, augment=False)]
    pictures += [draw(split.train_images, generator) for _ in range(AUGMENTED_COPIES)]
    features = np.concatenate([picture_features(p.movedim(1, -1)) for p in pictures])
    labels = np.tile(split.train_labels.numpy(), len(pictures))
    return SVC(kernel="rbf", C=10.0, gamma="scale").fit(features, labels)


def read_digits(images: Tensor) -> np.ndarray:
    """Read one digit off each image.

    Args:
        images: [B, 64, 64, 3] in 0..1, ComfyUI's IMAGE layout; any height and width that 8
            divides will do.

    Returns:
        int64 [B], the labels 0..9.
    """
    return digit_classifier().predict(picture_features(images))


def held_out_accuracy(stroke: Stroke = "plain") -> float:
    """Share of the 360 held-out real digits that the classifier reads right, 0..1."""
    split = digit_split()
    generator = torch.Generator().manual_seed(1)
    pictures = draw(split.held_out_images, generator, augment=False, stroke=stroke)
    return float((read_digits(pictures.movedim(1, -1)) == split.held_out_labels.numpy()).mean())


def picture_features(images: Tensor) -> np.ndarray:
    """[B, H, W, 3] -> [B, 64]: brightest channel, box down-scaled to 8x8.

    The brightest channel of an ink is 1 or close to it whatever its hue.
    """
    brightness = images.float().cpu().amax(dim=-1)
    return F.adaptive_avg_pool2d(brightness[:, None], 8).flatten(1).numpy()
