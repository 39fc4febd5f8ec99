"""The two kinds of images that guidance is measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from comfyui.library import ASSETS
from digits.classifier import picture_features
from emoji import CREDIT
from node_pack import DIGIT_CLASSES, EMOJI_CLASSES
from tiny.judge import load_judge

from .measures import Ruler
from .methods import Scales
from .studio import CLASSES, Files

# The same for both kinds: trained like the main model, but for what the name says.
SMALLER, EARLIER, BOTH = "smaller", "earlier", "smaller and earlier"


@dataclass(frozen=True)
class Kind:
    """A kind of images: what is real, what draws them, and what is measured.

    Attributes:
        name: of the kind, and of its autoencoder and classifier.
        classes: what its prompts say, without the empty one.
        make_real: gives labelled images, [n, 64, 64, 3] and [n].
        small: from images to few pixels.
        main: file name of the main model.
        weak: file names of the bad versions.
        fewer: how many images are drawn to choose a setting by.
        best: the bad version that savings, schedules and shapes are tried with.
        weakest: the bad version of least work.
        scales: what the ways to guide choose from.
        credit: written wherever its images are shown.
    """

    name: str
    classes: tuple[str, ...]
    make_real: Callable[[], tuple[Tensor, Tensor]]
    small: Callable[[Tensor], np.ndarray]
    main: str
    weak: Mapping[str, str]
    fewer: int
    best: str
    weakest: str
    scales: Scales = field(default_factory=Scales)
    credit: str = ""

    @cached_property
    def real(self) -> tuple[Tensor, Tensor]:
        """Real images ``[n, 64, 64, 3]``, no two drawn alike, and their classes ``[n]``."""
        return self.make_real()

    @cached_property
    def ruler(self) -> Ruler:
        """Measures images of this kind."""
        return Ruler(self.real[0], load_judge(self._judge), self.small)

    @property
    def _judge(self) -> Path:
        return ASSETS / f"{self.name}_judge.safetensors"

    @property
    def count(self) -> int:
        """How many images are drawn in a run: at least as many as there are real ones."""
        return -(-len(self.real[0]) // CLASSES) * CLASSES

    @property
    def fingerprint(self) -> str:
        """Another one for other models or another classifier."""
        files = [self.files.main, self.files.vae, *self.files.weak.values(), self._judge]
        digest = sha256()
        for path in files:
            for name, tensor in sorted(load_file(path).items()):
                digest.update(name.encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def files(self) -> Files:
        """Where its models lie."""
        return Files(
            ASSETS / self.main,
            ASSETS / f"{self.name}_vae.safetensors",
            {name: ASSETS / file for name, file in self.weak.items()},
        )


def _real_digits() -> tuple[Tensor, Tensor]:
    from digits.pictures import digit_split, draw

    split = digit_split()
    images = torch.cat([split.train_images, split.held_out_images])
    labels = torch.cat([split.train_labels, split.held_out_labels])
    pictures = draw(images, torch.Generator().manual_seed(0), stroke="varied")
    return pictures.movedim(1, -1), labels


def _real_emoji() -> tuple[Tensor, Tensor]:
    from emoji.pictures import source

    # Every class as often, as they are drawn.
    generator = torch.Generator().manual_seed(0)
    pictures, labels = [], []
    for held_out, each in ((False, 54), (True, 6)):
        some = source(held_out)
        for label in range(CLASSES):
            of_class = (some.labels == label).nonzero()[:, 0]
            chosen = of_class.repeat(-(-each // len(of_class)))[:each]
            pictures.append(some.draw(chosen, generator, 64, 64).movedim(1, -1))
            labels.append(torch.full((each,), label))
    return torch.cat(pictures), torch.cat(labels)


def small_colours(pictures: Tensor) -> np.ndarray:
    """[n, 64, 64, 3] -> [n, 192]: box down-scaled to 8x8."""
    return F.adaptive_avg_pool2d(pictures.movedim(-1, 1), 8).flatten(1).numpy()


def _family(name: str) -> dict[str, str]:
    return {
        SMALLER: f"{name}_smaller.safetensors",
        EARLIER: f"{name}_earlier.safetensors",
        BOTH: f"{name}_weak.safetensors",
    }


_DIGITS = Kind(
    name="digits",
    classes=tuple(DIGIT_CLASSES[:-1]),
    make_real=_real_digits,
    small=picture_features,
    main="digits_underfit_main.safetensors",
    weak=_family("digits_underfit"),
    fewer=400,
    best=EARLIER,
    weakest=BOTH,
)
_EMOJI = Kind(
    name="emoji",
    classes=tuple(EMOJI_CLASSES[:-1]),
    make_real=_real_emoji,
    small=small_colours,
    main="emoji_main.safetensors",
    weak=_family("emoji"),
    fewer=200,
    best=SMALLER,
    weakest=BOTH,
    # They ask for more of every push than the digits do.
    scales=Scales(
        cfg=(1.5, 2.0, 3.0, 4.0, 6.0),
        negative=(1.1, 1.25, 1.5, 2.0, 3.0),
        dynamic=(2.0, 4.0, 8.0, 16.0),
        weak=(2.0, 2.5, 3.0, 4.0, 5.0),
        one=(1.25, 1.5, 2.0, 3.0, 4.0, 6.0),
        few=(2.0, 3.0, 4.0, 6.0),
        firm=(3.0, 4.0, 6.0),
        share=(0.12, 0.25, 0.5, 1.0),
        little=(1.25, 1.5, 2.0, 3.0),
        mild=(2.0, 3.0, 4.0),
    ),
    credit=CREDIT,
)
KINDS = {kind.name: kind for kind in (_DIGITS, _EMOJI)}
