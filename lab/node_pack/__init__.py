"""A node pack for the tests and the demo: conditioning for the tiny models.

The tiny models have no text encoder. Their "prompt" is one of eleven classes, ten things to draw
and the empty class, given as one-hot vectors in the places where an SD3 model gets its text.
"""

import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

EMPTY = "none"
DIGIT_CLASSES = [*"0123456789", EMPTY]
EMOJI_CLASSES = [
    "face",
    "animal head",
    "animal",
    "fruit",
    "meal",
    "plant",
    "vehicle",
    "hand",
    "heart",
    "person",
    EMPTY,
]
EMPTY_CLASS = 10

CONTEXT_WIDTH = 16
CONTEXT_TOKENS = 2
START_SLOT = 15
# Scales a one-hot vector of width 16 to a mean square of 1.
ONE_HOT_VALUE = CONTEXT_WIDTH**0.5


def embed_classes(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Context and pooled vectors as the tiny models were trained with.

    Args:
        classes: int64 [B], 0..9 for something to draw, `EMPTY_CLASS` for nothing in particular.

    Returns:
        context [B, 2, 16], a start token and the class token, and pooled [B, 16], the class again.
    """
    one_hot = torch.eye(CONTEXT_WIDTH) * ONE_HOT_VALUE
    pooled = one_hot[classes]
    start = one_hot[START_SLOT].expand_as(pooled)
    return torch.stack([start, pooled], dim=1), pooled


def conditioning(index: int) -> list[list]:
    """The prompt for the class of this number, as ComfyUI's nodes pass it on."""
    context, pooled = embed_classes(torch.tensor([index]))
    return [[context, {"pooled_output": pooled}]]


def _output() -> io.Conditioning.Output:
    return io.Conditioning.Output(
        display_name="conditioning",
        tooltip="For the tiny models only; other models expect a text encoder's.",
    )


class DigitConditioning(io.ComfyNode):
    """Conditioning for one digit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DigitConditioning",
            display_name="Digit Conditioning",
            category="conditioning/tiny models",
            description="The prompt of the tiny digit models: which handwritten digit to draw.",
            inputs=[
                io.Combo.Input(
                    "digit",
                    options=DIGIT_CLASSES,
                    default="3",
                    tooltip="The digit to draw. 'none' is the empty prompt: any digit at all.",
                ),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, digit: str) -> io.NodeOutput:
        return io.NodeOutput(conditioning(DIGIT_CLASSES.index(digit)))


class EmojiConditioning(io.ComfyNode):
    """Conditioning for one kind of emoji."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmojiConditioning",
            display_name="Emoji Conditioning",
            category="conditioning/tiny models",
            description="The prompt of the tiny emoji models: which kind of emoji to draw.",
            inputs=[
                io.Combo.Input(
                    "emoji",
                    options=EMOJI_CLASSES,
                    default="face",
                    tooltip="The kind of emoji to draw. 'none' is the empty prompt: any of them.",
                ),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, emoji: str) -> io.NodeOutput:
        return io.NodeOutput(conditioning(EMOJI_CLASSES.index(emoji)))


class PromptsExtension(ComfyExtension):
    """What ComfyUI registers."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [DigitConditioning, EmojiConditioning]


async def comfy_entrypoint() -> PromptsExtension:
    """Called by ComfyUI when it loads this folder as a custom node."""
    return PromptsExtension()
