"""What others have published or found for a family of models: one table of recipes.

A recipe is a bad version that a model makes of itself, how hard to push away from it, and when.
What the sources call the scale counts from 0; an artist's ``weak_scale`` is 1 more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..models import name_of
from .network import Network

if TYPE_CHECKING:
    from ..comfy import ModelPatcher


@dataclass(frozen=True)
class Recipe:
    """What a source gives for a family.

    Attributes:
        family: as artists call it.
        models: ComfyUI's names for it; see :func:`.models.name_of`.
        depths: how many blocks the main list of such a network has; () for any number, with blocks
            that are chosen by themselves.
        way: how the model is weakened: ``attention`` or ``skip``; "" where no source says.
        mode: of attention: ``identity`` or ``blur``.
        blocks: which ones, in the artist's language.
        strength: how hard to push, 0 being off; None where no source says.
        start: where the push sets in, as a share of sampling, 0 to 1.
        end: where it stops.
        source: who says so, in any language: a method and its paper, or code that others go by.
    """

    family: str
    models: tuple[str, ...]
    depths: tuple[int, ...] = ()
    way: str = ""
    mode: str = "blur"
    blocks: str = "auto"
    strength: float | None = None
    start: float = 0.0
    end: float = 1.0
    source: str = ""

    @property
    def is_always_on(self) -> bool:
        """Whether it pushes at every step."""
        return (self.start, self.end) == (0.0, 1.0)


_PAG = "PAG (arXiv 2403.17377), SEG (arXiv 2408.00760)"
_STG = "STG (arXiv 2411.18664)"

TABLE: tuple[Recipe, ...] = (
    Recipe("SD1.5", ("SD15",), way="attention", strength=3.0, source=_PAG),
    Recipe("SDXL", ("SDXL",), way="attention", strength=3.0, source=_PAG),
    Recipe(
        "SD3.5",
        ("SD3",),
        depths=(24, 38),
        way="skip",
        blocks="joint 7-9",
        strength=2.8,
        start=0.01,
        end=0.2,
        source="SLG (Stability AI, SD3.5 Medium)",
    ),
    Recipe(
        "Wan 2.1 / 2.2",
        (
            "WAN21_T2V",
            "WAN21_I2V",
            "WAN21_FunControl2V",
            "WAN21_Camera",
            "WAN21_Vace",
            "WAN22_T2V",
            "WAN22_Camera",
        ),
        depths=(30, 40),
        way="skip",
        blocks="block 9-10",
        strength=3.0,
        start=0.01,
        end=0.8,
        # Where it was tried, most other blocks did harm.
        source="SLG (Wan2GP)",
    ),
    Recipe(
        "LTX-Video",
        ("LTXV",),
        depths=(28,),
        way="skip",
        blocks="transformer 19",
        strength=1.0,
        source=_STG,
    ),
    Recipe(
        "Mochi",
        ("GenmoMochi",),
        depths=(48,),
        way="skip",
        blocks="block 34",
        strength=1.0,
        source=_STG,
    ),
    Recipe(
        "LTX-2",
        ("LTXAV",),
        depths=(48,),
        way="attention",
        mode="identity",
        blocks="transformer 29",
        strength=1.0,
        source="STG (LTX-2's pipelines)",
    ),
    Recipe(
        "Anima",
        ("Anima",),
        depths=(28,),
        way="attention",
        mode="identity",
        blocks="block 18",
        strength=4.0,
        end=0.7,
        source="ComfyUI's users",  # no paper
    ),
    # Of these, nobody has published numbers for a model that is weakened itself.
    Recipe("FLUX.1", ("Flux", "FluxSchnell", "FluxInpaint")),
    Recipe("FLUX.2", ("Flux2",)),
    Recipe("Chroma", ("Chroma", "ChromaRadiance")),
    Recipe("Z-Image", ("ZImage",)),
    Recipe("Qwen-Image", ("QwenImage",)),
)


def recipe_of(model: ModelPatcher) -> Recipe | None:
    """The recipe for a model's family; None if the family, or a network of its depth, has none."""
    network = Network.of(model)
    depth = len(network.groups.get(network.main, ()))
    name = name_of(model)
    return next(
        (
            recipe
            for recipe in TABLE
            if name in recipe.models and (not recipe.depths or depth in recipe.depths)
        ),
        None,
    )
