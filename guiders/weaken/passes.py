"""Weak versions with the weights of the main model: a worse pass of the same network.

Each is a clone of the model with one wrapper around every pass (``WrappersMP.APPLY_MODEL``). While
the pass lasts, the wrapper stands in ComfyUI's patch points (replaced self-attention of a U-Net,
replaced blocks of a transformer, the attention override), and where a network has no patch point
around a block, in the block module's ``forward``. Nothing is left behind when the pass is over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.ldm.modules.attention
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..errors import bad_input
from . import perturbations
from .blocks import Block, Network, summary
from .perturbations import Grid, generator_for

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WRAPPER_KEY = "bad_version_weak_pass"

# What goes through a block: "img", and "txt" where text has a stream of its own.
Streams = dict[str, Any]
GoOn = Callable[[Streams], Streams]
Visit = Callable[[Block, Streams, GoOn], Streams]

# Newer releases hand their transformer options to every attention, and ask there for an override.
_ATTENTION_ASKS = hasattr(comfy.ldm.modules.attention, "wrap_attn")


@dataclass(frozen=True)
class Pass:
    """One pass of the network that is to be made worse.

    Attributes:
        network: as it runs.
        latent: what goes in, ``[batch, channels, (frames,) height, width]``.
        sigmas: its noise level, ``[batch]``.
        options: ComfyUI's transformer options of this pass, to be changed at will.
        undo: what is pushed here happens when the pass is over.
        reached: blocks that have been made worse, in this pass or one before it.
        one_stream: lists whose blocks have been seen to return one tensor like their first.
    """

    network: Network
    latent: Tensor
    sigmas: Tensor
    options: dict[str, Any]
    undo: ExitStack
    reached: set[Block]
    one_stream: set[str]

    @property
    def sigma(self) -> float:
        """The noise level; asking for it waits for the device."""
        return float(self.sigmas.max())

    def replace(self, kind: str, key: tuple[Any, ...], patch: Callable[..., Any]) -> None:
        """Stand in one of ComfyUI's ``patches_replace``."""
        kinds = dict(self.options.get("patches_replace", {}))
        kinds[kind] = {**kinds.get(kind, {}), key: patch}
        self.options["patches_replace"] = kinds

    def replacement(self, kind: str, *keys: tuple[Any, ...]) -> Callable[..., Any] | None:
        """What stands there already, under the first of ``keys`` that is taken."""
        there = self.options.get("patches_replace", {}).get(kind, {})
        return next((there[key] for key in keys if key in there), None)

    def stand_in(self, point: tuple[str, int], visit: Callable[[Streams, GoOn], Streams]) -> None:
        """Stand in ComfyUI's patch point around a block, in front of what stands there already."""
        there = self.replacement("dit", point)

        def patch(args: Streams, extra: dict[str, Any]) -> Streams:
            def go_on(streams: Streams) -> Streams:
                return there(streams, extra) if there else extra["original_block"](streams)

            return visit(args, go_on)

        self.replace("dit", point, patch)

    def detour(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let ``forward`` stand in for a module's own until the pass is over."""
        own = module.__dict__.get("forward")
        module.forward = forward
        if own is None:
            self.undo.callback(delattr, module, "forward")
        else:
            self.undo.callback(setattr, module, "forward", own)


def can_perturb_attention(network: Network) -> bool:
    """Whether the running ComfyUI lets the attention of this kind of network be replaced."""
    return network.is_unet or _ATTENTION_ASKS


def has_transformers(network: Network, block: Block) -> bool:
    """Whether a block has self-attention over the picture's tokens."""
    if network.is_unet:
        return bool(network.transformers(block))
    # Lumina and its kin refine the text on its own, in blocks like all others.
    return _is_called(network, block) and not block.group.startswith("context")


def can_be_skipped(network: Network, block: Block) -> bool:
    """Whether what comes out of a block is its input plus something."""
    if not network.is_unet or block.part is not None:
        return _is_called(network, block)
    return any(map(_is_residual, network.module_of(block)))


def _is_called(network: Network, block: Block) -> bool:
    """Whether a block is a part of the network with a forward of its own, and no mere list."""
    return block.path != "" and not isinstance(network.module_of(block), nn.ModuleList)


def skip_blocks(node: str, model: ModelPatcher, *, blocks: Sequence[Block]) -> ModelPatcher:
    """Leave blocks out: what goes in comes out.

    Skip-layer guidance (Stable Diffusion 3.5) and spatiotemporal skip guidance (Hyung et al.
    2024, arXiv 2411.18664). In a U-Net a block keeps what changes the size of the picture and the
    number of its channels, and leaves out the residual branches and transformers.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        blocks: of its network.
    """

    def skip(run: Pass) -> None:
        if run.network.is_unet:
            for block in blocks:
                _skip_in_unet(run, block)
            return

        def visit(block: Block, streams: Streams, go_on: GoOn) -> Streams:
            run.reached.add(block)
            return streams

        _around(node, run, blocks, visit)

    return _weakened(node, model, blocks, skip)


def perturb_attention(
    node: str, model: ModelPatcher, *, mode: str, strength: float, blocks: Sequence[Block]
) -> ModelPatcher:
    """Weaken self-attention inside blocks.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        mode: ``identity`` (perturbed attention), ``blur`` (smoothed energy) or ``window`` (sliding
            window); see :mod:`.perturbations` for each.
        strength: above 0, up to 1.
        blocks: of its network.
    """

    def perturb(run: Pass) -> None:
        if run.network.is_unet:
            _perturb_unet_attention(run, mode, strength, blocks)
        else:
            _perturb_joint_attention(run, mode, strength, blocks)

    return _weakened(node, model, blocks, perturb)


def shuffle_tokens(
    node: str, model: ModelPatcher, *, share: float, seed: int, blocks: Sequence[Block]
) -> ModelPatcher:
    """Put a share of the picture's tokens in another order on their way into blocks.

    Token perturbation guidance (Rajabi et al. 2025, arXiv 2506.10036). Each noise level and each
    block has an order of its own, the same for the same seed.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        share: of the tokens that change places, above 0, up to 1.
        seed: of the order.
        blocks: of its network; of a U-Net's, the transformers in them.
    """

    def shuffle(run: Pass) -> None:
        sigma = run.sigma

        def shuffled(x: Tensor, span: slice, path: str) -> Tensor:
            generator = generator_for("cpu", seed, sigma, path)
            return perturbations.shuffle_tokens(x, span, share, generator)

        def detoured(block: Block, transformer: Block) -> None:
            module = run.network.module_of(transformer)
            original = module.forward

            def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                run.reached.add(block)
                whole = slice(0, x.shape[1])
                return original(shuffled(x, whole, transformer.path), *args, **kwargs)

            run.detour(module, forward)

        if run.network.is_unet:
            for block in blocks:
                for transformer in run.network.transformers(block):
                    detoured(block, transformer)
            return
        places = _Places(run)

        def visit(block: Block, streams: Streams, go_on: GoOn) -> Streams:
            x = streams["img"]
            span = places.span(x.shape[1]) if x.ndim == 3 else None
            if span is None:
                return go_on(streams)
            run.reached.add(block)
            return go_on({**streams, "img": shuffled(x, span, block.path)})

        _around(node, run, blocks, visit)
        places.watch(run)

    return _weakened(node, model, blocks, shuffle)


def drop_activations(
    node: str, model: ModelPatcher, *, rate: float, seed: int, blocks: Sequence[Block]
) -> ModelPatcher:
    """Drop a share of the activations in front of every weight matrix inside blocks.

    Dropout, the corruption of the autoguidance paper (Karras et al. 2024, arXiv 2406.02507, section
    4). Each noise level has a mask of its own, the same for the same seed. What is not a sequence
    of tokens or a feature map, such as the embedding of the noise level, is left alone.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        rate: share that is dropped, above 0, below 1.
        seed: of the masks.
        blocks: of its network.
    """

    def drop(run: Pass) -> None:
        sigma = run.sigma

        def before(
            block: Block, path: str
        ) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
                x = args[0] if args else None
                if not isinstance(x, Tensor) or x.ndim < 3 or not x.is_floating_point():
                    return None
                run.reached.add(block)
                generator = generator_for(x.device, seed, sigma, path)
                return (perturbations.drop_activations(x, rate, generator), *args[1:])

            return hook

        for block in blocks:
            for name, module in run.network.module_of(block).named_modules():
                if getattr(getattr(module, "weight", None), "ndim", 0) >= 2:
                    hook = before(block, f"{block.path}.{name}")
                    run.undo.callback(module.register_forward_pre_hook(hook).remove)

    return _weakened(node, model, blocks, drop)


def _weakened(
    node: str,
    model: ModelPatcher,
    blocks: Sequence[Block],
    change: Callable[[Pass], None],
) -> ModelPatcher:
    """Return a clone of ``model`` with ``change`` made to each of its passes."""
    reached: set[Block] = set()
    one_stream: set[str] = set()
    network: Network | None = None
    passes = 0

    def apply_model(
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        nonlocal network, passes
        module = executor.class_obj.diffusion_model
        if network is None or network.module is not module:
            network = Network(module, type(executor.class_obj.model_config).__name__)
        options = dict(transformer_options or {})
        with ExitStack() as undo:
            change(Pass(network, x, t, options, undo, reached, one_stream))
            denoised = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        passes += 1
        # Only the first pass tells: others may rightly be cut short, by a cache of blocks, say.
        if passes == 1:
            _report_missed(node, network, blocks, reached)
        return denoised

    weakened = model.clone()
    weakened.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER_KEY, apply_model)
    return weakened


def _report_missed(
    node: str, network: Network, blocks: Sequence[Block], reached: set[Block]
) -> None:
    """Say which blocks were left as they are; that all of them were is an error."""
    missed = summary(block for block in blocks if block not in reached)
    if not reached:
        raise bad_input(
            node,
            "blocks",
            f"{missed}, on which this node has no effect in this model ({network.name})",
            "other blocks, none of which another node skips, or another kind of weakening",
        )
    if missed:
        logging.warning("%s: no effect on %s of this model (%s).", node, missed, network.name)


def _around(node: str, run: Pass, blocks: Sequence[Block], visit: Visit) -> None:
    """Call ``visit`` in place of each block of a transformer, while the pass lasts.

    ComfyUI's patch point around the block is used where the network has one; where it has none,
    nothing calls what stands there, and the block module's own ``forward`` is taken.
    """
    inside: set[Block] = set()

    def visited(block: Block, streams: Streams, go_on: GoOn) -> Streams:
        inside.add(block)
        try:
            return visit(block, streams, go_on)
        finally:
            inside.discard(block)

    def at_module(block: Block, module: nn.Module) -> Callable[..., Any]:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if block in inside:
                return original(*args, **kwargs)
            name = None if args else next(iter(kwargs))
            x = args[0] if args else kwargs[name]
            if block.group not in run.one_stream:
                _require_one_stream(node, block, original, x, args, kwargs)
                run.one_stream.add(block.group)

            def go_on(streams: Streams) -> Streams:
                if name is None:
                    return {"img": original(streams["img"], *args[1:], **kwargs)}
                return {"img": original(**{**kwargs, name: streams["img"]})}

            return visited(block, {"img": x}, go_on)["img"]

        return forward

    for block in blocks:
        if block.point is not None:
            run.stand_in(block.point, partial(visited, block))
        module = run.network.module_of(block)
        run.detour(module, at_module(block, module))


def _require_one_stream(
    node: str,
    block: Block,
    forward: Callable[..., Any],
    x: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Find out by one call whether a block can be treated as a function of one sequence."""
    if isinstance(x, Tensor):
        # A copy, since blocks may work in place.
        copied = (x.clone(), *args[1:]) if args else ()
        named = kwargs if args else {k: v.clone() if v is x else v for k, v in kwargs.items()}
        out = forward(*copied, **named)
        if isinstance(out, Tensor) and out.shape == x.shape:
            return
    raise bad_input(
        node,
        "blocks",
        f"{block}, which passes on more than one sequence, and which this ComfyUI lets nobody "
        "stand in for",
        f"other blocks than those of {block.group}, or another way to weaken the model, such as "
        "noise or dropout",
    )


class _Places:
    """Where the picture's tokens are in the sequences of one pass of a transformer."""

    def __init__(self, run: Pass) -> None:
        self._main = run.network.groups.get(run.network.main, [])
        self.grid = token_grid(run.network.module, run.latent)
        # Where the picture comes first in a joint sequence, ComfyUI's blocks say so.
        self._picture_first = any(
            getattr(run.network.module_of(block), "flipped_img_txt", False) for block in self._main
        )
        # Length of the picture's stream: padded in some networks, longer with reference pictures.
        padding = getattr(run.network.module, "pad_tokens_multiple", None) or 1
        self._stream = math.ceil(math.prod(self.grid) / padding) * padding

    def watch(self, run: Pass) -> None:
        """Note how long the picture's stream is where the network has it apart from the text.

        To be called last, so that nothing else stands in front of the patch point.
        """
        for block in self._main[:1]:
            if block.point is not None:
                run.stand_in(block.point, self._note)

    def span(self, length: int) -> slice | None:
        """The picture's tokens in a sequence of ``length``; None where they cannot be in it."""
        count = math.prod(self.grid)
        start = 0 if self._picture_first else length - self._stream
        return slice(start, start + count) if 0 <= start <= length - count else None

    def _note(self, streams: Streams, go_on: GoOn) -> Streams:
        self._stream = streams["img"].shape[1]
        return go_on(streams)


def token_grid(network: nn.Module, latent: Tensor) -> Grid:
    """Frames, rows and columns into which a transformer cuts a latent."""
    patch = getattr(network, "patch_size", None) or 1
    patches = tuple(patch) if isinstance(patch, Sequence) else (patch, patch)
    # Sound is a picture of one row.
    sizes, patches = ((1, 1, *all_)[-3:] for all_ in (latent.shape[2:], patches))
    frames, rows, columns = (math.ceil(n / of) for n, of in zip(sizes, patches, strict=True))
    return frames, rows, columns


def _skip_in_unet(run: Pass, block: Block) -> None:
    """Leave out the residual branches and transformers of a U-Net's block, or one transformer."""
    module = run.network.module_of(block)
    for layer in [module] if block.part is not None else filter(_is_residual, module):
        run.detour(layer, _without_branch(run, layer, block))


def _is_residual(layer: nn.Module) -> bool:
    return hasattr(layer, "skip_connection") or hasattr(layer, "transformer_blocks")


def _without_branch(run: Pass, layer: nn.Module, block: Block) -> Callable[..., Tensor]:
    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        run.reached.add(block)
        return layer.skip_connection(x) if hasattr(layer, "skip_connection") else x

    return forward


def _perturb_unet_attention(run: Pass, mode: str, strength: float, blocks: Sequence[Block]) -> None:
    """Stand in for the self-attention of transformers inside a U-Net."""

    def replaced(block: Block, there: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        def attention(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any], *_: Any) -> Tensor:
            heads, (rows, columns) = extra["n_heads"], extra["activations_shape"][-2:]
            # SD1.5's attention wants more precision than the weights have on some devices.
            options = {"attn_precision": extra.get("attn_precision")}
            if _ATTENTION_ASKS:
                options["transformer_options"] = extra
            plain = _attend(comfy.ldm.modules.attention.optimized_attention_masked, heads, options)

            def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
                # What stood here before knows of no masks.
                if there is None or mask is not None:
                    return plain(q, k, v, mask)
                return _by_head(there(_joined(q), _joined(k), _joined(v), extra), heads)

            length = q.shape[1]
            # Other nodes merge tokens, cut them into tiles, or put more into keys and values.
            has_places = mode == "identity" or length == rows * columns
            q, k, v = (_by_head(t, heads) for t in (q, k, v))
            if k.shape != q.shape or not has_places:
                return _joined(attend(q, k, v, None))
            run.reached.add(block)
            span, grid = slice(0, length), (1, rows, columns)
            return _joined(_perturbed(q, k, v, span, grid, mode, strength, None, attend))

        return attention

    for block in blocks:
        for transformer in run.network.transformers(block):
            key = (transformer.group, transformer.index, transformer.part)
            there = run.replacement("attn1", key, key[:2])
            run.replace("attn1", key, replaced(block, there))


def _perturb_joint_attention(
    run: Pass, mode: str, strength: float, blocks: Sequence[Block]
) -> None:
    """Stand in for self-attention over the picture's tokens inside blocks of a transformer."""
    places = _Places(run)
    current: list[Block] = []
    there = run.options.get("optimized_attention_override")

    def entered(block: Block, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            current.append(block)
            try:
                return original(*args, **kwargs)
            finally:
                current.pop()

        return forward

    def override(
        function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        def unweakened(*args: Any, **kwargs: Any) -> Tensor:
            return there(function, *args, **kwargs) if there else function(*args, **kwargs)

        by_head = kwargs.get("skip_reshape", False)
        span = places.span(q.shape[2 if by_head else 1])
        if not current or k.shape != q.shape or span is None:
            return unweakened(q, k, v, *args, **kwargs)
        run.reached.add(current[-1])
        named = {**dict(zip(("heads", "mask", "attn_precision"), args, strict=False)), **kwargs}
        heads, mask = named.pop("heads"), named.pop("mask", None)
        joined = not named.pop("skip_output_reshape", False)
        named.pop("skip_reshape", None)
        attend = _attend(unweakened, heads, named)
        if not by_head:
            q, k, v = (_by_head(t, heads) for t in (q, k, v))
        mask = perturbations.additive_mask(mask, q.dtype)
        out = _perturbed(q, k, v, span, places.grid, mode, strength, mask, attend)
        return _joined(out) if joined else out

    run.options["optimized_attention_override"] = override
    for block in blocks:
        module = run.network.module_of(block)
        run.detour(module, entered(block, module.forward))
    places.watch(run)


def _perturbed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    span: slice,
    grid: Grid,
    mode: str,
    strength: float,
    mask: Tensor | None,
    attend: perturbations.Attend,
) -> Tensor:
    if mode == "blur":
        return perturbations.blurred_attention(q, k, v, span, grid, strength, mask, attend)
    if mode == "window":
        return perturbations.windowed_attention(q, k, v, span, grid, strength, mask, attend)
    identity = perturbations.identity_attention(q, k, v, span, mask, attend)
    return identity if strength >= 1 else torch.lerp(attend(q, k, v, mask), identity, strength)


def _attend(
    function: Callable[..., Tensor], heads: int, options: Mapping[str, Any]
) -> perturbations.Attend:
    """ComfyUI's attention as a function of tensors ``[batch, heads, tokens, width]``."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = function(q, k, v, heads, mask=mask, skip_reshape=True, **options)
        return _by_head(out, heads)

    return attend


def _by_head(x: Tensor, heads: int) -> Tensor:
    # Some networks hand over values that are cut into heads already.
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
