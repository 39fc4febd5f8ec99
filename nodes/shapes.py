"""Category "bad version/shape": which part of a push to keep."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io
from torch import Tensor

from ..guiders.errors import bad_input
from ..guiders.push import shapes
from ..guiders.push.call import Conditioning
from ..guiders.push.shapes import Shape
from .widgets import advanced, check, number

CATEGORY = "bad version/shape"

# In pixels of a mask.
_WIDEST_FEATHER = 512

ShapeType = io.Custom("BadVersionShape")

Chain = tuple[Shape, ...]


def _chain_input() -> io.Input:
    return ShapeType.Input(
        "shape",
        optional=True,
        tooltip="Another shape that acts first; this one acts on its result.",
    )


def _output() -> io.Output:
    return ShapeType.Output(
        display_name="shape",
        tooltip="For weak_shape or negative_shape of Bad-Version Guider or Patch, for the shape of "
        "Another Push or History Push, or for another shape.",
    )


class BadVersionProjectedShape(io.ComfyNode):
    """``→ BadVersionShape``: adaptive projected guidance."""

    NAME = shapes.Projected.node

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionProjectedShape",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Removes the part of a push that oversaturates images, so that you can use "
            "a high scale: adaptive projected guidance (APG).",
            inputs=[
                number(
                    "eta",
                    0.0,
                    -10.0,
                    10.0,
                    0.05,
                    "How much to keep of the part that only amplifies the image as it is, its "
                    "contrast and colour. 0 removes all of it, 1 is ordinary guidance.",
                ),
                number(
                    "norm_threshold",
                    15.0,
                    0.0,
                    1000.0,
                    0.5,
                    "How long the difference may be; a longer one is shortened to it. 2.5 to 15 is "
                    "usual for images of 512 to 1024 pixels, more for larger ones. 0 is no limit.",
                ),
                number(
                    "momentum",
                    -0.5,
                    -0.95,
                    0.95,
                    0.05,
                    "How much of the average of earlier pushes to add. Below 0 damps what they "
                    "have in common: -0.75 to -0.25 is usual. 0 is off.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls, eta: float, norm_threshold: float, momentum: float, shape: Chain = ()
    ) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, eta=eta, norm_threshold=norm_threshold, momentum=momentum)
        return io.NodeOutput((*shape, shapes.Projected(eta, norm_threshold, momentum)))


class BadVersionRejectShape(io.ComfyNode):
    """``→ BadVersionShape``: by comparison with the other push."""

    NAME = shapes.Reject.node

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionRejectShape",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Keeps only the part of a push that the other push does not make already, "
            "or only the part that lies along it. For guidance by a weak model and a negative "
            "prompt at once.",
            inputs=[
                io.Combo.Input(
                    "keep",
                    options=["different", "common"],
                    default="different",
                    tooltip="Which part to keep: 'different' is what is at a right angle to the "
                    "other push, so that the two do not add up to too much; 'common' is what "
                    "points the same way, or exactly the opposite way.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, keep: str, shape: Chain = ()) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, keep=keep)
        return io.NodeOutput((*shape, shapes.Reject(keep)))


class BadVersionCapShape(io.ComfyNode):
    """``→ BadVersionShape``: a limit to the length."""

    NAME = shapes.Cap.node

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionCapShape",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Limits the length of a push, whatever its direction. Helps against single "
            "steps that burn the image.",
            inputs=[
                io.Combo.Input(
                    "relative_to",
                    options=["other push", "number"],
                    default="other push",
                    tooltip="What the limit is measured by: 'other push' is the length of the "
                    "other difference, that of the negative prompt for the weak model and the "
                    "other way round; 'number' is a fixed length.",
                ),
                number(
                    "limit",
                    1.0,
                    0.0,
                    1000.0,
                    0.05,
                    "How long the difference may be before it is scaled. Relative to the other "
                    "push, 0.5 to 2 is useful; as a number, 5 to 20 for images of 512 to 1024 "
                    "pixels.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, relative_to: str, limit: float, shape: Chain = ()) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, relative_to=relative_to, limit=limit)
        return io.NodeOutput((*shape, shapes.Cap(limit, relative_to == "other push")))


class BadVersionRescaleShape(io.ComfyNode):
    """``→ BadVersionShape``: contrast kept as it was."""

    NAME = shapes.Rescale.node

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionRescaleShape",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Takes back the contrast that a push adds to the image, so that a high "
            "scale does not burn it.",
            inputs=[
                number(
                    "phi",
                    0.7,
                    0.0,
                    1.0,
                    0.05,
                    "How much of the added contrast to take back: 0 is none, 1 is all of it, which "
                    "may look flat. 0.5 to 0.75 is usual.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, phi: float, shape: Chain = ()) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, phi=phi)
        return io.NodeOutput((*shape, shapes.Rescale(phi)))


class BadVersionZeroStarShape(io.ComfyNode):
    """``→ BadVersionShape``: CFG-Zero*."""

    NAME = shapes.ZeroStar.node

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionZeroStarShape",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Scales the bad version to the best fit with the good one before pushing "
            "away from it: CFG-Zero*, made for flow models such as SD3.5, Flux and Wan.",
            inputs=[_chain_input()],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, shape: Chain = ()) -> io.NodeOutput:
        """Return the longer chain."""
        return io.NodeOutput((*shape, shapes.ZeroStar()))


class BadVersionPerpNegShape(io.ComfyNode):
    """``CONDITIONING → BadVersionShape``: Perp-Neg."""

    NAME = shapes.PerpNeg.node

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionPerpNegShape",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Keeps only what the negative prompt asks for and the positive one does "
            "not, so that the two never conflict: Perp-Neg. Costs one more model pass.",
            inputs=[
                io.Conditioning.Input(
                    "empty",
                    tooltip="An empty prompt, encoded like the positive one. Both prompts are "
                    "compared with it.",
                ),
                number(
                    "weight",
                    1.0,
                    0.0,
                    10.0,
                    0.05,
                    "Weight of the negative prompt beside the empty one. 0 is guidance away from "
                    "the empty prompt alone; 0.5 to 2 is useful.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, empty: Conditioning, weight: float, shape: Chain = ()) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, weight=weight)
        return io.NodeOutput((*shape, shapes.PerpNeg(empty, weight)))


class BadVersionFrequencyShape(io.ComfyNode):
    """``→ BadVersionShape``: layout and detail separately."""

    NAME = shapes.Frequency.node

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionFrequencyShape",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Sets the push on layout and on detail separately: less on layout and "
            "colour keeps images varied and natural, more on outlines makes them crisp.",
            inputs=[
                number(
                    "low",
                    0.5,
                    -10.0,
                    10.0,
                    0.05,
                    "How hard to push layout and colour, as a multiple of what the scale asks for. "
                    "0.2 to 1 is useful; below 0 pulls towards the bad version.",
                ),
                number(
                    "high",
                    1.0,
                    -10.0,
                    10.0,
                    0.05,
                    "How hard to push outlines and texture, as a multiple of what the scale asks "
                    "for. 1 to 2 is useful; below 0 pulls towards the bad version.",
                ),
                advanced(
                    io.Int.Input(
                        "levels",
                        default=1,
                        min=1,
                        max=8,
                        tooltip="How many octaves of detail count as fine; each one halves what "
                        "is left as coarse. 1 or 2 for most images, 3 for very large ones.",
                    )
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, low: float, high: float, levels: int, shape: Chain = ()) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, low=low, high=high, levels=levels)
        return io.NodeOutput((*shape, shapes.Frequency(low, high, levels)))


class BadVersionRegionShape(io.ComfyNode):
    """``MASK → BadVersionShape``: a part of the image only."""

    NAME = shapes.Region.node

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionRegionShape",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Pushes in a part of the image only, such as hands or a face: where a mask "
            "is white. The rest of the image stays without this push, or gets less of it.",
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="Where to push: all of it where the mask is white, nothing where it is "
                    "black, less where it is grey. Draw it at the size of the image; any other "
                    "size is stretched to it. One mask for all images, or one for each; for a "
                    "video, one for all frames or one for each.",
                ),
                io.Int.Input(
                    "feather",
                    default=32,
                    min=0,
                    max=_WIDEST_FEATHER,
                    tooltip="How wide the soft edge of the region is, in pixels of the mask, half "
                    "of it inside and half outside. 16 to 64 is useful for images of 512 to 1024 "
                    "pixels. 0 leaves the mask as it is.",
                ),
                number(
                    "outside",
                    0.0,
                    0.0,
                    1.0,
                    0.05,
                    "How much of the push to keep outside of the region: 0 is nothing, 1 is all of "
                    "it, as without this node. For a negative prompt, 0.3 to 0.6 is useful, since "
                    "without any push the rest of the image turns pale and soft.",
                ),
                _chain_input(),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls, mask: Tensor, feather: int, outside: float, shape: Chain = ()
    ) -> io.NodeOutput:
        """Return the longer chain; raise ``GuidanceError`` for inputs that cannot be used."""
        check(cls, feather=feather, outside=outside)
        mask = cls._checked(mask)
        if outside == 0 and not (mask > 0).any():
            logging.warning(
                "%s, input 'mask': it is black everywhere, and with 'outside' 0 there is no push.",
                cls.NAME,
            )
        return io.NodeOutput((*shape, shapes.Region(mask, feather, outside)))

    @classmethod
    def _checked(cls, mask: Tensor) -> Tensor:
        """The mask as ``[masks, height, width]``, whichever way other packs write that."""
        expected = "a mask, or a batch of masks, with height and width"
        if not isinstance(mask, Tensor):
            raise bad_input(cls.NAME, "mask", type(mask).__name__, expected)
        is_one = mask.ndim in (2, 3) or (mask.ndim == 4 and mask.shape[1] == 1)
        if not is_one or mask.numel() == 0:
            came = f"a tensor of the shape {tuple(mask.shape)}"
            raise bad_input(cls.NAME, "mask", came, expected)
        mask = mask.reshape(-1, *mask.shape[-2:])
        if not mask.is_floating_point():
            mask = mask.to(torch.float32)
        if not mask.isfinite().all():
            raise bad_input(
                cls.NAME, "mask", "a mask with NaN or infinite values", "values from 0 to 1"
            )
        return mask


NODES: list[type[io.ComfyNode]] = [
    BadVersionProjectedShape,
    BadVersionRejectShape,
    BadVersionCapShape,
    BadVersionRescaleShape,
    BadVersionZeroStarShape,
    BadVersionPerpNegShape,
    BadVersionFrequencyShape,
    BadVersionRegionShape,
]
