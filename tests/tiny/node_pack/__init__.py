"""A one-node pack for the tests and the demo: conditioning for the tiny digit models.

The digit models have no text encoder. Their "prompt" is one of eleven classes, the ten digits and
the empty class, given as one-hot vectors in the places where an SD3 model gets its text.
"""

import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

EMPTY_CLASS = 10
CLASS_NAMES = [*"0123456789", "none"]

CONTEXT_WIDTH = 16
CONTEXT_TOKENS = 2
START_SLOT = 15
# Scales a one-hot vector of width 16 to a mean square of 1.
ONE_HOT_VALUE = CONTEXT_WIDTH**0.5


def embed_classes(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Context and pooled vectors as the digit models were trained with.

    Args:
        classes: int64 [B], 0..9 for a digit, `EMPTY_CLASS` for no digit in particular.

    Returns:
        context [B, 2, 16], a start token and the class token, and pooled [B, 16], the class again.
    """
    one_hot = torch.eye(CONTEXT_WIDTH) * ONE_HOT_VALUE
    pooled = one_hot[classes]
    start = one_hot[START_SLOT].expand_as(pooled)
    return torch.stack([start, pooled], dim=1), pooled


class DigitConditioning(io.ComfyNode):
    """Conditioning for one digit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DigitConditioning",
            display_name="Digit Conditioning",
            category="conditioning/digits",
            description="The prompt of the tiny digit models: which handwritten digit to draw.",
            inputs=[
                io.Combo.Input(
                    "digit",
                    options=CLASS_NAMES,
                    default="3",
                    tooltip="The digit to draw. 'none' is the empty prompt: any digit at all.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="For the digit models only; other models expect a text encoder's.",
                ),
            ],
        )

    @classmethod
    def execute(cls, digit: str) -> io.NodeOutput:
        context, pooled = embed_classes(torch.tensor([CLASS_NAMES.index(digit)]))
        return io.NodeOutput([[context, {"pooled_output": pooled}]])


class DigitExtension(ComfyExtension):
    """What ComfyUI registers."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [DigitConditioning]


async def comfy_entrypoint() -> DigitExtension:
    """Called by ComfyUI when it loads this folder as a custom node."""
    return DigitExtension()
