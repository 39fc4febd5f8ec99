"""What networks are like: one table of all architectures, and a network seen through its row.

A new architecture is a new row of :data:`TABLE`, and one small network of its kind in the tests,
which hold every row against the network itself. What no row knows is read by the last one, which
looks for lists of blocks and guesses from their names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ..models import name_of
from .perturbations import Grid

if TYPE_CHECKING:
    from torch import Size

    from ..comfy import ModelPatcher


@dataclass(frozen=True)
class Block:
    """One block of a network.

    Attributes:
        group: the list that it is in, as an artist calls it: ``input``, ``double``, …
        index: its place in that list, from 0.
        path: of its module below the diffusion model; "" for the network as a whole.
        part: for one transformer inside a block of a U-Net, its place in there.
        point: key of ComfyUI's patch point around it, for transformers that have one.
    """

    group: str
    index: int
    path: str
    part: int | None = None
    point: tuple[str, int] | None = None

    def __str__(self) -> str:
        name = self.group if self.group == "middle" else f"{self.group} {self.index}"
        return name if self.part is None else f"{name}.{self.part}"


# The network as a whole, as if it was one block.
WHOLE = Block("network", 0, "")


@dataclass(frozen=True)
class BlockList:
    """One list of blocks, or a block that stands alone.

    Attributes:
        name: as an artist calls it.
        path: of the list, or of the one block, below the diffusion model.
        point: name of ComfyUI's patch point around its blocks, which is a key of
            ``patches_replace["dit"]`` together with the block's index; "" where there is none.
        stream: key of what goes in at the patch point, and comes out: the image's stream.
        image: whether the image's tokens go through its blocks.
        replaceable: whether something else can be called in place of its blocks: there is a patch
            point, what they hand on is one sequence, like their first argument, or ``hands_on``.
        hands_on: for blocks without a patch point that return several things: their arguments of
            the same meaning, in that order, the image's stream first.
    """

    name: str
    path: str
    point: str = ""
    stream: str = "img"
    image: bool = True
    replaceable: bool = True
    hands_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pick:
    """Some blocks of a list.

    Attributes:
        group: the list; "" for the main one.
        share: of its depth, from and until; one block at least.
        transformers: only blocks of a U-Net with transformers in them.
        last: only so many of the last ones; 0 for all.
    """

    group: str = ""
    share: tuple[float, float] = (0.0, 1.0)
    transformers: bool = False
    last: int = 0


@dataclass(frozen=True)
class Auto:
    """What is good for an architecture where an artist leaves the choice open.

    Attributes:
        attention: where to weaken self-attention. Of several picks the first with a block counts.
        tokens: where to shuffle tokens.
        skip: what to leave out.
        weak: ways to make a whole weak version, the best first: ``attention`` (blurred), ``skip``,
            ``rank`` (half of the rank of all weights). The first that can be done counts.
    """

    attention: tuple[Pick, ...]
    tokens: tuple[Pick, ...]
    skip: tuple[Pick, ...]
    weak: tuple[str, ...]


# Of a transformer's depth: blocks 7 to 9 of 24 in Stable Diffusion 3.5, 9 to 11 of 30 in Wan 1.3B.
_A_THIRD_IN = Pick(share=(7 / 24, 10 / 24))

# Of the ways to weaken a transformer itself, or a U-Net, these bring images nearest to real ones
# in docs/results.md.
_TRANSFORMER = Auto(
    attention=(_A_THIRD_IN,),
    tokens=(_A_THIRD_IN,),
    skip=(_A_THIRD_IN,),
    weak=("skip", "rank"),
)

# What most networks call the module that embeds the noise level.
_CLOCK = (
    "time_embed",
    "t_embedder",
    "time_in",
    "time_embedding",
    "time_text_embed.timestep_embedder",
)


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        classes: how the full name of the network's class, or of one that it is made from, ends.
        has: attributes that such a network has, none of them None.
        lists: of blocks, in the order of the network; those that a network does not have are left
            out. None to look for them.
        main: name of the list with most of the network's depth, to which a bare number belongs.
        image_first: whether the image comes before the text in a joint sequence. None where a block
            with ``flipped_img_txt`` says so.
        image_ends_stream: whether the image is the last part of its own stream, instead of the
            first.
        text: name of the network's input with one place for each token before the image's stream,
            where reference images may follow in that stream and nothing tells how long it is.
        before: names of the network's inputs that come before the image in its stream, cut into
            tokens as the latent is.
        mixed: names of the network's inputs whose tokens lie between those of the image.
        alone: whether text and sound have sequences of their own throughout.
        padding: attribute with the multiple to which the image's stream is padded.
        cut: sides of a patch, or attributes with them: one for all of them, or one each for frames,
            rows and columns.
        attention: whether ComfyUI lets the self-attention over the image's tokens be replaced.
        tokens: whether the image's tokens go through the blocks as a sequence in which they can be
            put in another order.
        know_places: whether its blocks know where each token is, by rotary positions or the like.
            What has positions in front of its first block alone, or none at all, does the same to
            tokens in any order.
        flat: its sequences have no dimension for the batch.
        state: attributes in which it keeps something of one pass for the next.
        clock: modules from which the embedding of the noise level comes that all blocks go by; of
            these names, all that a network has. One may return several embeddings.
        unet: it is a U-Net: tokens are found in single transformers inside its blocks.
        auto: what is good where an artist leaves the choice open.
    """

    classes: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    lists: tuple[BlockList, ...] | None = None
    main: str = ""
    image_first: bool | None = False
    image_ends_stream: bool = False
    text: str = ""
    before: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    alone: bool = False
    padding: str = ""
    cut: tuple[str | int, ...] = ("patch_size",)
    attention: bool = True
    tokens: bool = True
    know_places: bool = True
    flat: bool = False
    state: tuple[str, ...] = ()
    clock: tuple[str, ...] = _CLOCK
    unet: bool = False
    auto: Auto = _TRANSFORMER


# Attention in the middle (Ahn et al. 2024, arXiv 2403.17377), tokens in the two deepest blocks on
# the way down (Rajabi et al. 2025, arXiv 2506.10036, of SDXL). Distilled ones such as SSD-1B have
# no attention in their middle, or no middle.
_UNET = Auto(
    attention=(Pick("middle", transformers=True), Pick("input", transformers=True, last=1)),
    tokens=(Pick("input", transformers=True, last=2),),
    skip=(Pick("middle"), Pick("input", transformers=True, last=1)),
    weak=("attention", "skip", "rank"),
)
# The double blocks of HiDream cannot be stood in for. Its first single ones are as deep in it.
_HIDREAM = Auto(
    attention=(_A_THIRD_IN,),
    tokens=(Pick("single", share=(0, 1 / 8)),),
    skip=(Pick("single", share=(0, 1 / 8)),),
    weak=("skip", "rank"),
)

# What has no lists of blocks that something can be done to still has weights.
_WEIGHTS = Auto(attention=(), tokens=(), skip=(), weak=("rank",))

_DOUBLE = BlockList("double", "double_blocks", "double_block")
_SINGLE = BlockList("single", "single_blocks", "single_block")
_BLOCKS = BlockList("block", "blocks", "double_block")
_BARE_BLOCKS = BlockList("block", "blocks")
_REFINERS = (
    BlockList("noise_refiner", "noise_refiner"),
    BlockList("context_refiner", "context_refiner", image=False),
)

# What a distilled layer of Chroma makes the modulation of all blocks from.
_DISTILLED_CLOCK = ("distilled_guidance_layer.in_proj",)
_CAPTIONED_CLOCK = ("time_caption_embed.timestep_embedder",)
# Of Trellis 2: what an artist calls its networks, and their paths.
_TRELLIS = {
    "shape": "img2shape",
    "texture": "shape2txt",
    "small_shape": "img2shape_512",
    "structure": "structure_model",
}

# The first row that knows a network counts, so that special cases stand before the common one.
TABLE: tuple[Architecture, ...] = (
    # Stable Diffusion 3
    Architecture(
        classes=("diffusionmodules.mmdit.MMDiT",),
        lists=(BlockList("joint", "joint_blocks", "double_block"),),
        main="joint",
        know_places=False,
    ),
    Architecture(
        classes=("aura.mmdit.MMDiT",),
        lists=(
            BlockList("double", "double_layers", "double_block"),
            BlockList("single", "single_layers", "single_block"),
        ),
        main="double",
        know_places=False,
    ),
    # The blocks at its end work on the pixels of one patch each.
    Architecture(
        classes=("chroma_radiance.model.ChromaRadiance",),
        lists=(_DOUBLE, _SINGLE, BlockList("nerf", "nerf_blocks", image=False)),
        main="double",
        clock=_DISTILLED_CLOCK,
    ),
    Architecture(
        classes=("flux.model.Flux", "chroma.model.Chroma"),
        lists=(_DOUBLE, _SINGLE),
        main="double",
        clock=("time_in", *_DISTILLED_CLOCK),
    ),
    Architecture(
        classes=("hunyuan3d.model.Hunyuan3Dv2",),
        lists=(_DOUBLE, _SINGLE),
        main="double",
        know_places=False,
    ),
    Architecture(
        classes=("hunyuan_video.model.HunyuanVideo",),
        lists=(_DOUBLE, _SINGLE),
        main="double",
        image_first=None,  # in releases up to 0.3.75
        before=("ref_latent",),
    ),
    # Its blocks are like those of Flux, its image like that of HunyuanVideo before.
    Architecture(
        classes=("joyimage.model.JoyImageTransformer3DModel",),
        lists=(_DOUBLE,),
        main="double",
        image_first=True,
        clock=("condition_embedder.time_embedder",),
    ),
    Architecture(
        classes=("hidream.model.HiDreamImageTransformer2DModel",),
        lists=(
            BlockList("double", "double_stream_blocks", replaceable=False),
            BlockList("single", "single_stream_blocks"),
        ),
        main="double",
        image_first=True,
        mixed=("image_cond",),
        auto=_HIDREAM,
    ),
    # A language model that has the image at the end. Its attention is cut in two, and what it has
    # read of the prompt it keeps, whatever its weights were.
    Architecture(
        classes=("hidream_o1.model.HiDreamO1Transformer",),
        lists=(
            BlockList("vision", "visual.blocks", image=False, replaceable=False),
            BlockList("layer", "language_model.layers", "double_block", stream="x"),
        ),
        main="layer",
        text="input_ids",
        attention=False,
        state=("_kv_cache_entries", "_visual_cache"),
        clock=("t_embedder1",),
    ),
    # Lumina 2, Z-Image, also of pixels
    Architecture(
        classes=("lumina.model.NextDiT",),
        lists=(
            *_REFINERS,
            BlockList("layer", "layers"),
            BlockList("siglip_refiner", "siglip_refiner", image=False),
        ),
        main="layer",
        padding="pad_tokens_multiple",
    ),
    Architecture(
        classes=("omnigen.omnigen2.OmniGen2Transformer2DModel",),
        lists=(
            _REFINERS[0],
            BlockList("ref_image_refiner", "ref_image_refiner", image=False),
            _REFINERS[1],
            BlockList("layer", "layers"),
        ),
        main="layer",
        clock=_CAPTIONED_CLOCK,
    ),
    # Like OmniGen 2, with blocks that have the text apart before the others
    Architecture(
        classes=("boogu.model.BooguTransformer2DModel",),
        lists=(
            _REFINERS[0],
            BlockList("ref_image_refiner", "ref_image_refiner", image=False),
            _REFINERS[1],
            BlockList(
                "double",
                "double_stream_layers",
                hands_on=("img_hidden_states", "instruct_hidden_states"),
            ),
            BlockList("single", "single_stream_layers"),
        ),
        main="double",
        clock=_CAPTIONED_CLOCK,
    ),
    Architecture(
        classes=(
            "qwen_image.model.QwenImageTransformer2DModel",
            "mage_flow.model.MageFlowTransformer2DModel",
        ),
        lists=(BlockList("transformer", "transformer_blocks", "double_block"),),
        main="transformer",
    ),
    Architecture(
        classes=("lens.model.LensTransformer2DModel",),
        lists=(BlockList("transformer", "transformer_blocks", "double_block"),),
        main="transformer",
        image_first=True,
        cut=(),
    ),
    Architecture(
        classes=("ideogram4.model.Ideogram4Transformer2DModel",),
        lists=(BlockList("layer", "layers"),),
        main="layer",
        cut=(),
        clock=("t_embedding",),
    ),
    Architecture(
        classes=("ernie.model.ErnieImageModel",),
        lists=(BlockList("layer", "layers"),),
        main="layer",
        image_first=True,
        attention=False,
    ),
    Architecture(
        classes=("krea2.model.SingleStreamDiT",),
        lists=(_BARE_BLOCKS,),
        main="block",
        text="context",
        cut=("patch",),
        clock=("tmlp",),
    ),
    # What its network calls in place of a block fails in ComfyUI itself.
    Architecture(
        classes=("kandinsky5.model.Kandinsky5",),
        lists=(
            BlockList("text_transformer", "text_transformer_blocks", image=False),
            BlockList("visual_transformer", "visual_transformer_blocks"),
        ),
        main="visual_transformer",
        clock=("time_embeddings",),
    ),
    # PixelDiT, PiD. The blocks at the end work on the pixels of one patch each.
    Architecture(
        classes=("pixeldit.model.PixDiT_T2I",),
        lists=(
            BlockList("patch", "patch_blocks", hands_on=("x", "y")),
            BlockList("pixel", "pixel_blocks", image=False),
        ),
        main="patch",
    ),
    Architecture(
        classes=("cogvideo.model.CogVideoXTransformer3DModel",),
        lists=(BlockList("block", "blocks", hands_on=("hidden_states", "encoder_hidden_states")),),
        main="block",
        cut=("patch_size_t", "patch_size", "patch_size"),
        clock=("time_embedding_linear_2",),
    ),
    # MiniMax H3: one sequence of text, references, sound and, at its end, the video
    Architecture(
        classes=("minimax.model.MiniMaxH3Model",),
        lists=(_BLOCKS,),
        main="block",
        image_ends_stream=True,
        flat=True,
        clock=("time_embedder",),
    ),
    # Its tokens go through in windows, all videos of a batch one after the other.
    Architecture(
        classes=("seedvr.model.NaDiT",),
        lists=(BlockList("block", "blocks", hands_on=("vid", "txt", "vid_shape", "txt_shape")),),
        main="block",
        cut=(1, 2, 2),
        attention=False,
        tokens=False,
        flat=True,
        clock=("emb_in.proj_hid",),
    ),
    # Points and a camera, which have no rows and columns
    Architecture(
        classes=("triposplat.model.LatentSeqMMFlowModel",),
        lists=(*_REFINERS, _BARE_BLOCKS),
        main="block",
        attention=False,
        tokens=False,
    ),
    # Trellis 2: several networks, of which a run uses one
    Architecture(
        classes=("trellis2.model.Trellis2",),
        lists=tuple(
            BlockList(name, f"{path}.blocks", image=False, replaceable=False)
            for name, path in _TRELLIS.items()
        ),
        cut=(),
        attention=False,
        tokens=False,
        flat=True,
        clock=tuple(f"{path}.t_embedder" for path in _TRELLIS.values()),
        auto=_WEIGHTS,
    ),
    # LTX with sound, which goes through the blocks beside the video
    Architecture(
        classes=("lightricks.av_model.LTXAVModel",),
        lists=(BlockList("transformer", "transformer_blocks", "double_block"),),
        main="transformer",
        alone=True,
        cut=(),
        clock=tuple(
            f"{path}adaln_single.emb"
            for path in (
                *("", "prompt_", "audio_", "audio_prompt_"),
                *("av_ca_video_scale_shift_", "av_ca_audio_scale_shift_"),
                *("av_ca_a2v_gate_", "av_ca_v2a_gate_"),
            )
        ),
    ),
    Architecture(
        classes=("lightricks.model.LTXVModel",),
        lists=(BlockList("transformer", "transformer_blocks", "double_block"),),
        main="transformer",
        cut=(),
        clock=("adaln_single.emb", "prompt_adaln_single.emb"),
    ),
    Architecture(
        classes=("genmo.joint_model.asymm_models_joint.AsymmDiTJoint",),
        lists=(_BLOCKS,),
        main="block",
        image_first=True,
    ),
    Architecture(
        classes=("wan.model.VaceWanModel",),
        lists=(_BLOCKS, BlockList("vace", "vace_blocks", replaceable=False)),
        main="block",
    ),
    # Each of its frames looks at keys and values of its own.
    Architecture(
        classes=("wan.model_animate2.WanAnimate2Model",),
        lists=(_BLOCKS,),
        main="block",
        attention=False,
    ),
    Architecture(
        classes=("wan.model.HumoWanModel", "wan.model.WanModel_S2V"),
        lists=(_BLOCKS,),
        main="block",
    ),
    # Wan with a reference image, which comes first
    Architecture(
        classes=("wan.model.SCAILWanModel",),
        lists=(_BLOCKS,),
        main="block",
        before=("reference_latent",),
    ),
    Architecture(
        classes=("wan.model.WanModel",),
        has=("ref_conv",),
        lists=(_BLOCKS,),
        main="block",
        before=("reference_latent",),
    ),
    Architecture(
        classes=("wan.model.WanModel",),
        lists=(_BLOCKS,),
        main="block",
    ),
    # Hunyuan-DiT
    Architecture(
        classes=("hydit.models.HunYuanDiT",),
        lists=(_BLOCKS,),
        main="block",
        attention=False,
    ),
    # PixArt; Hunyuan3D 2.1, whose patch point is not like all others
    Architecture(
        classes=("pixart.pixartms.PixArtMS", "hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain"),
        lists=(_BARE_BLOCKS,),
        main="block",
        attention=False,
        know_places=False,
    ),
    # Cosmos, Cosmos Predict 2, Anima: tokens in rows and columns
    Architecture(
        classes=("cosmos.model.GeneralDIT", "cosmos.predict2.MiniTrainDIT"),
        lists=(_BARE_BLOCKS,),
        main="block",
        cut=("patch_temporal", "patch_spatial", "patch_spatial"),
        tokens=False,
        clock=("t_embedder.1",),
    ),
    # Stable Audio 3, whose patch point forgets a part of what its blocks are given
    Architecture(
        classes=("audio.dit.AudioDiffusionTransformer",),
        has=("transformer.global_cond_embedder",),
        lists=(BlockList("layer", "transformer.layers"),),
        main="layer",
        clock=("to_timestep_embed",),
    ),
    # Stable Audio, whose sound comes after a token for its length
    Architecture(
        classes=("audio.dit.AudioDiffusionTransformer",),
        lists=(BlockList("layer", "transformer.layers", "double_block"),),
        main="layer",
        image_ends_stream=True,
        clock=("to_timestep_embed",),
    ),
    Architecture(
        classes=("ace.model.ACEStepTransformer2DModel",),
        lists=(BlockList("transformer", "transformer_blocks"),),
        main="transformer",
        attention=False,
        clock=("timestep_embedder",),
    ),
    Architecture(
        classes=("ace.ace_step15.AceStepConditionGenerationModel",),
        lists=(
            BlockList("layer", "decoder.layers"),
            BlockList("detokenizer", "detokenizer.layers", image=False),
        ),
        main="layer",
        cut=("decoder.patch_size",),
        attention=False,
        clock=("decoder.time_embed.linear_2",),
    ),
    # MiniMax Music, whose sound comes after a token for the noise level
    Architecture(
        classes=("minimax_music.dit.MiniMaxMusic3DiT",),
        lists=(BlockList("layer", "diffusion_transformer.transformer.layers"),),
        main="layer",
        cut=(),
        attention=False,
        clock=("diffusion_transformer.to_timestep_embed",),
    ),
    # Stable Cascade, whose blocks are lists of parts that are called one by one. No module of its
    # own embeds the noise level.
    Architecture(
        classes=("cascade.stage_c.StageC", "cascade.stage_b.StageB"),
        lists=(
            BlockList("down", "down_blocks", image=False, replaceable=False),
            BlockList("up", "up_blocks", image=False, replaceable=False),
        ),
        main="down",
        clock=(),
        auto=_WEIGHTS,
    ),
    # Stable Diffusion 1 and 2, SDXL, Stable Video Diffusion, and whatever else is built like them
    Architecture(
        has=("input_blocks", "output_blocks"),
        lists=(
            BlockList("input", "input_blocks"),
            BlockList("middle", "middle_block"),
            BlockList("output", "output_blocks"),
        ),
        know_places=False,
        unet=True,
        auto=_UNET,
    ),
    # Transformers that no row knows
    Architecture(image_first=None, padding="pad_tokens_multiple", know_places=False),
)

# The lists that most of an unknown transformer's depth may sit in, short of "_blocks".
_MAIN_LISTS = ("double", "joint", "transformer", "block", "layer")


def architecture_of(module: nn.Module) -> Architecture:
    """The row of the table for a ComfyUI ``diffusion_model``."""
    # What is compiled is a wrapper around the network.
    module = getattr(module, "_orig_mod", module)
    return next(row for row in TABLE if _knows(row, module))


def _knows(row: Architecture, module: nn.Module) -> bool:
    names = [f".{made_from.__module__}.{made_from.__name__}" for made_from in type(module).__mro__]
    of_class = any(name.endswith(f".{end}") for name in names for end in row.classes)
    main = next((of.path for of in row.lists or () if of.name == row.main), None)
    return (
        (of_class or not row.classes)
        and all(_found(module, name) is not None for name in row.has)
        and (main is None or _found(module, main) is not None)
    )


@contextmanager
def state_set_aside(module: nn.Module) -> Iterator[None]:
    """Let a network start afresh for a pass that is unlike the others, and go on as before then.

    What it keeps for its next pass it knows by the prompt, whatever its weights and blocks were.

    Args:
        module: ComfyUI's ``diffusion_model`` of any architecture.
    """
    module = getattr(module, "_orig_mod", module)
    kept = {name: getattr(module, name) for name in architecture_of(module).state}
    for name, value in kept.items():
        setattr(module, name, [] if isinstance(value, list) else None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(module, name, value)


class Network:
    """A diffusion model as its row of the table sees it.

    Args:
        module: ComfyUI's ``diffusion_model`` of any architecture.
        name: of the architecture, for messages; by default that of the module's class.

    Attributes:
        architecture: the row of the table.
        groups: blocks by name of their list, in the order in which the network has them.
        main: name of the list with most of a transformer's depth; "" for U-Nets.
    """

    def __init__(self, module: nn.Module, name: str | None = None) -> None:
        self.module = module
        self.name = name or type(module).__name__
        self.architecture = architecture_of(module)
        lists = self.architecture.lists
        self.main = self.architecture.main
        if lists is None:
            lists, self.main = _look_for_lists(module)
        self._lists = {of.name: of for of in lists}
        groups = {of.name: _blocks_of(module, of) for of in lists}
        self.groups = {group: blocks for group, blocks in groups.items() if blocks}
        if not self.groups:
            self.groups = {WHOLE.group: [WHOLE]}
        elif self.main and self.main not in self.groups:
            self.main = max(self.groups, key=lambda group: len(self.groups[group]))

    @classmethod
    def of(cls, model: ModelPatcher) -> Network:
        """The network that a patcher runs."""
        return cls(model.get_model_object("diffusion_model"), name_of(model))

    @property
    def is_unet(self) -> bool:
        """Whether it is a U-Net."""
        return self.architecture.unet

    @property
    def blocks(self) -> list[Block]:
        """All blocks; the network as a whole is the only one where no lists of them are found."""
        return [block for group in self.groups.values() for block in group]

    @property
    def clocks(self) -> dict[str, nn.Module]:
        """The modules that embed the noise level, by path; none where no row knows one."""
        found = {path: _found(self.module, path) for path in self.architecture.clock}
        return {path: module for path, module in found.items() if module is not None}

    def module_of(self, block: Block) -> nn.Module:
        """The module of a block."""
        return self.module.get_submodule(block.path)

    def has_image(self, block: Block) -> bool:
        """Whether the image's tokens go through a block."""
        if self.is_unet:
            return bool(self.transformers(block))
        return self._is_called(block) and self._lists[block.group].image

    def has_attention(self, block: Block) -> bool:
        """Whether a block has self-attention over the image's tokens that can be replaced."""
        return self.architecture.attention and self.has_image(block)

    def has_tokens(self, block: Block) -> bool:
        """Whether the image's tokens go into a block as one sequence that can be changed."""
        if self.is_unet or not self.has_image(block):
            return self.has_image(block)
        return self.architecture.tokens and self.can_be_replaced(block)

    def stream_of(self, block: Block) -> str:
        """What goes in at a transformer's block by this name has the image's tokens in it."""
        of = self._lists[block.group]
        return of.hands_on[0] if of.hands_on else of.stream

    def hands_on(self, block: Block) -> tuple[str, ...]:
        """Arguments of a transformer's block that it returns, changed; () for the first alone."""
        return self._lists[block.group].hands_on

    def can_be_replaced(self, block: Block) -> bool:
        """Whether something else can be called in place of a transformer's block."""
        return self._is_called(block) and self._lists[block.group].replaceable

    def transformers(self, block: Block) -> list[Block]:
        """The single transformers inside a block of a U-Net; none for anything else."""
        if not self.is_unet:
            return []
        if block.part is not None:
            return [block]
        return [
            Block(block.group, block.index, f"{block.path}.{name}", int(name.rsplit(".", 1)[1]))
            for name, module in self.module_of(block).named_modules()
            # A video model's other ones, which mix its frames, go by the name "time_stack".
            if hasattr(module, "attn1") and name.split(".")[-2:-1] == ["transformer_blocks"]
        ]

    def branches(self, block: Block) -> list[nn.Module]:
        """Layers of a U-Net's block, or the one transformer, that add to what goes through them."""
        module = self.module_of(block)
        if block.part is not None:
            return [module]
        adding = ("skip_connection", "transformer_blocks")
        return [layer for layer in module if any(hasattr(layer, name) for name in adding)]

    def weight_keys(self, model: ModelPatcher, blocks: Iterable[Block]) -> list[str]:
        """Keys of all weights inside ``blocks``, as ``ModelPatcher.add_patches`` takes them."""
        prefixes = tuple(
            f"diffusion_model.{block.path}." if block.path else "diffusion_model."
            for block in blocks
        )
        return [key for key in model.model.state_dict() if key.startswith(prefixes)]

    def pick(self, picks: Iterable[Pick]) -> list[Block]:
        """The blocks of the first pick that finds any."""
        return next(filter(None, map(self._pick, picks)), [])

    def grid(self, latent: Size) -> Grid:
        """Frames, rows and columns of tokens into which a transformer cuts a latent.

        Args:
            latent: shape ``[batch, channels, (frames,) (height,) width]``; sound is an image of one
                row.
        """
        sizes, patches = ((1, 1, *all_)[-3:] for all_ in (latent[2:], self._patch()))
        frames, rows, columns = (math.ceil(n / of) for n, of in zip(sizes, patches, strict=True))
        return frames, rows, columns

    @property
    def image_first(self) -> bool:
        """Whether the image comes before the text in a joint sequence."""
        first = self.architecture.image_first
        if first is not None:
            return first
        main = self.groups.get(self.main, [])
        return any(getattr(self.module_of(block), "flipped_img_txt", False) for block in main)

    @property
    def padding(self) -> int:
        """To a multiple of how many tokens the image's stream is padded."""
        name = self.architecture.padding
        return (getattr(self.module, name, None) if name else None) or 1

    def _patch(self) -> tuple[int, ...]:
        sides: list[Any] = [
            at if isinstance(at, int) else _found(self.module, at) or 1
            for at in self.architecture.cut
        ]
        if len(sides) > 1:
            return tuple(sides)
        side = sides[0] if sides else 1
        return tuple(side) if isinstance(side, Sequence) else (side, side)

    def _pick(self, pick: Pick) -> list[Block]:
        blocks = self.groups.get(pick.group or self.main, [])
        start, end = (round(share * len(blocks)) for share in pick.share)
        first = min(start, len(blocks) - 1)
        blocks = blocks[first : max(first + 1, end)]
        if pick.transformers:
            blocks = [block for block in blocks if self.transformers(block)]
        return blocks[-pick.last :]

    def _is_called(self, block: Block) -> bool:
        """Whether a block is a part of the network with a forward of its own, and no mere list."""
        return block.path != "" and not isinstance(self.module_of(block), nn.ModuleList)


def _found(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _blocks_of(module: nn.Module, of: BlockList) -> list[Block]:
    found = _found(module, of.path)
    if found is None:
        return []
    if not isinstance(found, nn.ModuleList | nn.ModuleDict):
        return [Block(of.name, 0, of.path)]
    return [
        Block(of.name, i, f"{of.path}.{name}", point=(of.point, i) if of.point else None)
        for i, (name, _) in enumerate(found.named_children())
    ]


def _look_for_lists(module: nn.Module) -> tuple[list[BlockList], str]:
    """Lists of blocks of a transformer that no row knows, and which of them is the main one."""
    paths = [
        path
        for path, inside in module.named_modules()
        if isinstance(inside, nn.ModuleList | nn.ModuleDict) and _are_blocks(inside)
    ]
    # Lists inside of blocks are parts of these, not blocks.
    outermost = min((path.count(".") for path in paths), default=0)
    named: dict[str, str] = {}
    for path in (path for path in paths if path.count(".") == outermost):
        name = group_name(path.rsplit(".", 1)[-1])
        named[path.lower() if name in named else name] = path
    lengths = {name: len(module.get_submodule(path)) for name, path in named.items()}
    known = [name for name in _MAIN_LISTS if name in lengths]
    main = known[0] if known else max(lengths, key=lengths.__getitem__, default="")
    points = {main: "double_block", "single": "single_block"}
    # Refiners of the text are blocks like all others.
    lists = [
        BlockList(name, path, points.get(name, ""), image=not name.startswith("context"))
        for name, path in named.items()
    ]
    return lists, main


def group_name(attribute: str) -> str:
    """What an artist calls a list of modules: ``double`` for ``double_blocks``."""
    name = re.sub(r"(_stream)?_(block|layer)s?$", "", attribute.lower())
    return name.rstrip("s") if name in ("blocks", "layers") else name


def _are_blocks(modules: nn.ModuleList | nn.ModuleDict) -> bool:
    """Tell a list of blocks from a list of small projections."""
    children = list(modules.children())
    return bool(children) and all(
        sum(p.ndim >= 2 for p in child.parameters()) >= 2 for child in children
    )
