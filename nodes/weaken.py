"""Category "bad version/weaken": bad versions made from a model or a prompt."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..guiders.errors import bad_input
from ..guiders.models import name_of
from ..guiders.weaken import attention, auto, clock, dropout, prompts, skipping, tokens, weights
from ..guiders.weaken.blocks import choose
from ..guiders.weaken.content import find_content
from ..guiders.weaken.network import Network
from .progress import progress_text
from .widgets import advanced, check, number

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

    from ..guiders.push.call import Conditioning

CATEGORY = "bad version/weaken"


def _model_input(tooltip: str = "The model to weaken; it is not changed itself.") -> io.Model.Input:
    return io.Model.Input("model", tooltip=tooltip)


def _weak_model_output() -> io.Model.Output:
    return io.Model.Output(
        display_name="weak_model",
        tooltip="The weak model, for weak_model of Bad-Version Guider or Patch, or for another "
        "Weaken node.",
    )


def _blocks_input(chosen: str) -> io.String.Input:
    return io.String.Input(
        "blocks",
        default="auto",
        tooltip=f"Which blocks of the network to weaken: 'auto' ({chosen}), 'all', or names and "
        "numbers such as 'middle', 'input 4-6' or 'double 7-9, single 20'. For blocks that the "
        "model does not have, the error lists those that it has.",
    )


def _seed_input(optional: bool = False) -> io.Int.Input:
    return io.Int.Input(
        "seed",
        optional=optional,
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=False,
        tooltip="Seed of the random numbers. The same seed makes the same weak version again; "
        "another seed makes a different one that is just as weak.",
    )


class BadVersionWeakenAgainstBase(io.ComfyNode):
    """``MODEL, MODEL → MODEL``: the model with less of what its finetune learned."""

    NAME = "Weaken Against Base"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenAgainstBase",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Removes what a finetune or its LoRAs have learned, by going from the "
            "model towards the base model it was made from.",
            inputs=[
                _model_input("The finetuned model; it is not changed itself."),
                io.Model.Input(
                    "base_model",
                    tooltip="The model that the finetune started from, with the same architecture, "
                    "for example SDXL base for an SDXL finetune.",
                ),
                number(
                    "amount",
                    1.0,
                    -1.0,
                    3.0,
                    0.05,
                    "How far to go: 1 is the base model itself and a good start, 0.5 is half way; "
                    "1.2 to 2 goes past the base, for a stronger push. Below 0 goes the other way "
                    "and exaggerates the finetune.",
                ),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, base_model: ModelPatcher, amount: float) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` if the two do not fit together."""
        check(cls, amount=amount)
        return io.NodeOutput(weights.against_base(cls.NAME, model, base_model, amount=amount))


class BadVersionWeakenLora(io.ComfyNode):
    """``MODEL → MODEL``: the model with its LoRAs turned down."""

    NAME = "Weaken LoRAs"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenLora",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Turns down or removes all LoRAs on the model. The push then goes towards "
            "what they have learned, away from the model without them.",
            inputs=[
                _model_input(
                    "The model, after its LoRA loaders; it is not changed itself.",
                ),
                number(
                    "keep",
                    0.0,
                    -1.0,
                    2.0,
                    0.05,
                    "How much of the LoRAs' strength to keep: 0 removes them, 0.5 halves them. "
                    "Below 0 reverses them, for a stronger push; above 1 exaggerates them, so that "
                    "the push goes away from too much of them.",
                ),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, keep: float) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` if there is no LoRA."""
        check(cls, keep=keep)
        return io.NodeOutput(weights.without_loras(cls.NAME, model, keep=keep))


class BadVersionWeakenWithNoise(io.ComfyNode):
    """``MODEL → MODEL``: the model with noise on its weights."""

    NAME = "Weaken with Noise"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenWithNoise",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Adds noise to the model's weights, which blurs what it has learned.",
            inputs=[
                _model_input(),
                number(
                    "amount",
                    0.1,
                    0.001,
                    2.0,
                    0.01,
                    "How much noise, relative to the spread of each tensor's own values. 0.05 to "
                    "0.2 is useful; from about 0.5 nothing of the image is left, and the push "
                    "means nothing.",
                ),
                advanced(_seed_input()),
                advanced(_blocks_input("all of them")),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, amount: float, seed: int, blocks: str) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` for blocks that it does not have."""
        check(cls, amount=amount)
        keys = _weight_keys(cls.NAME, model, blocks)
        return io.NodeOutput(
            weights.with_noise(cls.NAME, model, amount=amount, seed=seed, keys=keys)
        )


class BadVersionWeakenWithFewerBits(io.ComfyNode):
    """``MODEL → MODEL``: the model with coarsely rounded weights."""

    NAME = "Weaken with Fewer Bits"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenWithFewerBits",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Rounds the model's weights to a few bits, as heavy compression does.",
            inputs=[
                _model_input(),
                io.Int.Input(
                    "bits",
                    default=4,
                    min=2,
                    max=8,
                    tooltip="Bits per weight, with one scale for each output channel. 3 or 4 is "
                    "useful. At 8 hardly anything is lost and there is hardly any push; at 2 "
                    "little is left of the image.",
                ),
                advanced(_blocks_input("all of them")),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, bits: int, blocks: str) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` for blocks that it does not have."""
        check(cls, bits=bits)
        keys = _weight_keys(cls.NAME, model, blocks)
        return io.NodeOutput(weights.with_fewer_bits(cls.NAME, model, bits=bits, keys=keys))


class BadVersionWeakenWithLowRank(io.ComfyNode):
    """``MODEL → MODEL``: the model without the small singular values of its weights."""

    NAME = "Weaken with Low Rank"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenWithLowRank",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Keeps the broad strokes of each weight matrix and removes the finer ones, "
            "as if the model were smaller.",
            inputs=[
                _model_input(),
                number(
                    "keep",
                    0.5,
                    0.01,
                    0.99,
                    0.01,
                    "Share of each matrix's singular values to keep, the largest first. 0.3 to 0.7 "
                    "is useful; less makes the weak model worse and the push stronger.",
                ),
                advanced(_blocks_input("all of them")),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, keep: float, blocks: str) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` for blocks that it does not have."""
        check(cls, keep=keep)
        keys = _weight_keys(cls.NAME, model, blocks)
        return io.NodeOutput(weights.with_low_rank(cls.NAME, model, keep=keep, keys=keys))


class BadVersionWeakenWithDropout(io.ComfyNode):
    """``MODEL → MODEL``: the model with a share of its activations dropped."""

    NAME = "Weaken with Dropout"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenWithDropout",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Drops a random share of the activations inside the model, a different one "
            "at each step. Uses no extra memory.",
            inputs=[
                _model_input(),
                number(
                    "rate",
                    0.1,
                    0.005,
                    0.9,
                    0.005,
                    "Share of the activations to drop. 0.05 to 0.15 is useful; above 0.3 little is "
                    "left of the image.",
                ),
                advanced(_seed_input()),
                advanced(_blocks_input("all of them")),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, rate: float, seed: int, blocks: str) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` for blocks that it does not have."""
        check(cls, rate=rate)
        network = Network.of(model)
        chosen = choose(cls.NAME, network, blocks, auto=network.blocks)
        return io.NodeOutput(
            dropout.drop_activations(cls.NAME, model, rate=rate, seed=seed, blocks=chosen)
        )


class BadVersionWeakenAttention(io.ComfyNode):
    """``MODEL → MODEL``: the model with weakened self-attention."""

    NAME = "Weaken Attention"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenAttention",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Keeps the parts of the image from seeing each other, so that the push "
            "goes towards coherent structure. Uses no extra memory.",
            inputs=[
                _model_input(),
                io.Combo.Input(
                    "mode",
                    options=["identity", "blur", "window"],
                    default="blur",
                    tooltip="What to do to self-attention. identity: each part sees only itself "
                    "(perturbed attention). blur: what a part looks for is blurred across the "
                    "image (smoothed energy). window: each part sees only its neighbourhood "
                    "(sliding window).",
                ),
                number(
                    "strength",
                    1.0,
                    0.01,
                    1.0,
                    0.01,
                    "How much to change it: for identity the share that is mixed in, for blur how "
                    "wide, for window how narrow. 1 is all of it and a good start, 0.5 is gentle; "
                    "with window, 1 leaves each part only its own place.",
                ),
                _blocks_input("the middle of a U-Net, a few a third of the way into a transformer"),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, mode: str, strength: float, blocks: str) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` if its attention cannot be weakened."""
        check(cls, strength=strength, mode=mode)
        network = Network.of(model)
        if not attention.can_be_replaced(network):
            raise bad_input(
                cls.NAME,
                "model",
                f"{name_of(model)}, whose attention cannot be replaced in this release of ComfyUI",
                "a U-Net (SD1.5, SDXL), or a newer ComfyUI",
            )
        chosen = choose(
            cls.NAME,
            network,
            blocks,
            auto=auto.attention_blocks(network),
            fits=lambda block: attention.has_attention(network, block),
            need="self-attention that can be replaced",
        )
        return io.NodeOutput(
            attention.perturb_attention(
                cls.NAME, model, mode=mode, strength=strength, blocks=chosen
            )
        )


class BadVersionWeakenBySkippingBlocks(io.ComfyNode):
    """``MODEL → MODEL``: the model without some of its blocks."""

    NAME = "Weaken by Skipping Blocks"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenBySkippingBlocks",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Skips whole blocks of the network. The weak model is then faster than the "
            "model, and uses no extra memory.",
            inputs=[
                _model_input(),
                _blocks_input("the middle of a U-Net, a few a third of the way into a transformer"),
                advanced(
                    number(
                        "draw",
                        1.0,
                        0.01,
                        1.0,
                        0.01,
                        "Share of these blocks to skip at each step, drawn anew each time; at "
                        "least one, and never the first of the network. 1 always skips all of "
                        "them. With blocks 'all', 0.05 to 0.1 is useful and was published.",
                        optional=True,
                    )
                ),
                advanced(_seed_input(optional=True)),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, blocks: str, draw: float = 1.0, seed: int = 0
    ) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` for blocks that cannot be skipped."""
        check(cls, draw=draw)
        network = Network.of(model)
        chosen = choose(
            cls.NAME,
            network,
            blocks,
            auto=auto.skipped_blocks(network),
            fits=lambda block: skipping.can_be_skipped(network, block),
            need="something to skip",
        )
        if draw < 1:
            weak = skipping.skip_drawn_blocks(cls.NAME, model, share=draw, seed=seed, blocks=chosen)
        else:
            weak = skipping.skip_blocks(cls.NAME, model, blocks=chosen)
        return io.NodeOutput(weak)


class BadVersionWeakenTokens(io.ComfyNode):
    """``MODEL → MODEL``: the model with parts of the image in the wrong place."""

    NAME = "Weaken Tokens"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenTokens",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Puts parts of the image in the wrong place inside the network, in a "
            "different order at each step. Uses no extra memory.",
            inputs=[
                _model_input(),
                number(
                    "strength",
                    0.5,
                    0.01,
                    1.0,
                    0.01,
                    "Share of the image's tokens that change places. With shuffle, 1 is what the "
                    "paper uses on U-Nets, and 0.2 to 0.5 is gentler; with swap, 0.2 is what its "
                    "paper uses.",
                ),
                advanced(_seed_input()),
                _blocks_input(
                    "the two deepest on the way down of a U-Net, a few a third of the way into a "
                    "transformer"
                ),
                io.Combo.Input(
                    "mode",
                    options=list(tokens.MODES),
                    default=tokens.SHUFFLE,
                    optional=True,
                    tooltip="Which tokens change places. shuffle: any of them, in a random order. "
                    "swap: those that are most unlike each other, two by two; seed then changes "
                    "nothing.",
                ),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        strength: float,
        seed: int,
        blocks: str,
        mode: str = tokens.SHUFFLE,
    ) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` for blocks that have no tokens."""
        check(cls, strength=strength, mode=mode)
        network = Network.of(model)
        chosen = choose(
            cls.NAME,
            network,
            blocks,
            auto=auto.token_blocks(network),
            fits=lambda block: tokens.has_tokens(network, block),
            need="tokens in one sequence",
        )
        return io.NodeOutput(
            tokens.reorder_tokens(
                cls.NAME, model, mode=mode, share=strength, seed=seed, blocks=chosen
            )
        )


class BadVersionWeakenByNoisyClock(io.ComfyNode):
    """``MODEL → MODEL``: the model that is told a wrong noise level."""

    NAME = "Weaken by Noisy Clock"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenByNoisyClock",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Blurs what the model knows about how noisy the image is, in a different "
            "way at each step. Needs no choice of blocks, and uses no extra memory.",
            inputs=[
                _model_input(),
                number(
                    "strength",
                    3.0,
                    0.01,
                    20.0,
                    0.1,
                    "How much noise the embedding of the noise level gets, relative to the spread "
                    "of its own values. 1 to 3 is useful: 3 is for models that read a prompt, 2 "
                    "for those that know classes only. Less is gentler.",
                ),
                number(
                    "power",
                    0.25,
                    0.0,
                    4.0,
                    0.05,
                    "How fast it fades as the image clears. 0: as much at every step. 0.25: hardly "
                    "less until the last steps, for models that read a prompt. 1: in step with the "
                    "noise, for those that know classes only.",
                ),
                advanced(_seed_input()),
            ],
            outputs=[_weak_model_output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, strength: float, power: float, seed: int
    ) -> io.NodeOutput:
        """Return the weaker model; raise ``GuidanceError`` if its clock is not known."""
        check(cls, strength=strength, power=power)
        if not clock.has_clock(Network.of(model)):
            raise bad_input(
                cls.NAME,
                "model",
                f"{name_of(model)}, none of whose parts is known to read the noise level",
                "another model, or another Weaken node",
            )
        return io.NodeOutput(
            clock.make_clock_noisy(cls.NAME, model, strength=strength, power=power, seed=seed)
        )


class BadVersionWeakenPrompt(io.ComfyNode):
    """``CONDITIONING → CONDITIONING``: a prompt that says less."""

    NAME = "Weaken Prompt"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionWeakenPrompt",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Makes a prompt say less, for use as the bad version. The push then goes "
            "towards what the prompt asks for, much as with an empty negative prompt but gentler.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt to weaken, encoded."),
                io.Combo.Input(
                    "mode",
                    options=["drop", "noise", "blur", "content"],
                    default="drop",
                    tooltip="What to do to the prompt. drop: some of its tokens say nothing. "
                    "noise: all of them become unclear. blur: all of them say nearly the same. "
                    "content: its words become those of an empty prompt, and all else stays; takes "
                    "the place of CFG, with cfg 1 and the empty prompt in empty.",
                ),
                number(
                    "amount",
                    0.5,
                    0.01,
                    1.0,
                    0.01,
                    "How much: the share of tokens to drop, the noise relative to the prompt's own "
                    "spread, or how far to go towards its mean. 0.3 to 0.8 is useful. With content "
                    "the share of words to replace: set it to 1, all of them, as published.",
                ),
                advanced(_seed_input()),
                io.Conditioning.Input(
                    "empty",
                    optional=True,
                    tooltip="For content only, which needs it: an empty prompt, encoded by the "
                    "same text encoder.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="For content only: the text encoder of the prompt. Connect it, and "
                    "type the prompt in text, so that only words are replaced. Without it every "
                    "token counts as a word, and of the prompt only the pooled output is left.",
                ),
                io.String.Input(
                    "text",
                    optional=True,
                    default="",
                    tooltip="For content only: the very text that was encoded, weights such as "
                    "(word:1.2) included. Best connect one text to both nodes.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Conditioning.Output(
                    display_name="weak_positive",
                    tooltip="The weak prompt, for weak_positive of Bad-Version Guider or Patch.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        conditioning: Conditioning,
        mode: str,
        amount: float,
        seed: int,
        empty: Conditioning | None = None,
        clip: CLIP | None = None,
        text: str = "",
    ) -> io.NodeOutput:
        """Return the weaker prompt; raise ``GuidanceError`` if it is no text embedding."""
        check(cls, amount=amount, mode=mode)
        if mode != "content":
            return io.NodeOutput(prompts.weaken_prompt(cls.NAME, conditioning, mode, amount, seed))
        content = None
        if clip is not None:
            rows = prompts.empty_embedding(cls.NAME, empty).shape[1]
            content = find_content(cls.NAME, clip, text, rows)
        elif text:
            raise bad_input(
                cls.NAME,
                "clip",
                "nothing, with a prompt in 'text'",
                "the text encoder of the prompt; or no text, then every token counts as a word",
            )
        weaker, told = prompts.without_content(cls.NAME, conditioning, empty, content, amount, seed)
        logging.info("%s: %s.", cls.NAME, told)
        show = progress_text(cls)
        if show is not None:
            show(told)
        return io.NodeOutput(weaker)


def _weight_keys(node: str, model: ModelPatcher, blocks: str) -> list[str]:
    network = Network.of(model)
    return network.weight_keys(model, choose(node, network, blocks, auto=network.blocks))


NODES: list[type[io.ComfyNode]] = [
    BadVersionWeakenAgainstBase,
    BadVersionWeakenLora,
    BadVersionWeakenWithNoise,
    BadVersionWeakenWithFewerBits,
    BadVersionWeakenWithLowRank,
    BadVersionWeakenWithDropout,
    BadVersionWeakenAttention,
    BadVersionWeakenBySkippingBlocks,
    BadVersionWeakenTokens,
    BadVersionWeakenByNoisyClock,
    BadVersionWeakenPrompt,
]
