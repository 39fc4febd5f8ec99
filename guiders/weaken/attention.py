"""Self-attention weakened inside blocks; the formulas are those of :mod:`.perturbations`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import comfy
from . import perturbations
from .network import Block, Network
from .passes import Pass, Places, as_function, weakened
from .perturbations import Attend, Grid

if TYPE_CHECKING:
    from ..comfy import ModelPatcher


def can_be_replaced(network: Network) -> bool:
    """Whether the running ComfyUI lets the attention of this kind of network be replaced."""
    return network.is_unet or comfy.ATTENTION_ASKS


def has_attention(network: Network, block: Block) -> bool:
    """Whether a block has self-attention over the image's tokens that can be replaced."""
    return network.has_attention(block)


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
    weaker = _Weaker(mode, strength)

    def perturb(run: Pass) -> None:
        (_perturb_in_unet if run.network.is_unet else _perturb_in_transformer)(run, weaker, blocks)

    return weakened(node, model, blocks, perturb)


@dataclass(frozen=True)
class _Weaker:
    """What becomes of attention."""

    mode: str
    strength: float

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        span: slice,
        grid: Grid,
        mask: Tensor | None,
        attend: Attend,
    ) -> Tensor:
        """Weakened attention; ``attend`` is the unweakened one."""
        if self.mode == "blur":
            blurred = perturbations.blurred_attention
            return blurred(q, k, v, span, grid, self.strength, mask, attend)
        if self.mode == "window":
            windowed = perturbations.windowed_attention
            return windowed(q, k, v, span, grid, self.strength, mask, attend)
        identity = perturbations.identity_attention(q, k, v, span, mask, attend)
        if self.strength >= 1:
            return identity
        return torch.lerp(attend(q, k, v, mask), identity, self.strength)


def _perturb_in_unet(run: Pass, weaker: _Weaker, blocks: Sequence[Block]) -> None:
    """Stand in for the self-attention of transformers inside a U-Net."""
    for block in blocks:
        for transformer in run.network.transformers(block):
            key = (transformer.group, transformer.index, transformer.part)
            there = run.replacement("attn1", key, key[:2])
            run.replace("attn1", key, partial(_attend_in_unet, run, weaker, block, there))


def _attend_in_unet(
    run: Pass,
    weaker: _Weaker,
    block: Block,
    there: Callable[..., Tensor] | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: dict[str, Any],
    *_: Any,
) -> Tensor:
    heads, (rows, columns) = extra["n_heads"], extra["activations_shape"][-2:]
    length = q.shape[1]
    # Other nodes merge tokens, cut them into tiles, or put more into keys and values.
    has_places = weaker.mode == "identity" or length == rows * columns
    q, k, v = (_by_head(t, heads) for t in (q, k, v))
    attend = partial(_plain_in_unet, there, extra)
    if k.shape != q.shape or not has_places:
        return _joined(attend(q, k, v, None))
    run.reached.add(block)
    grid = (1, rows, columns)
    return _joined(weaker.attend(q, k, v, slice(0, length), grid, None, attend))


def _plain_in_unet(
    there: Callable[..., Tensor] | None,
    extra: dict[str, Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Unweakened attention of a U-Net: what stood there before, or ComfyUI's own."""
    heads = extra["n_heads"]
    # What stood here before knows of no masks.
    if there is not None and mask is None:
        return _by_head(there(_joined(q), _joined(k), _joined(v), extra), heads)
    # SD1.5's attention wants more precision than the weights have on some devices.
    options = {"attn_precision": extra.get("attn_precision")}
    if comfy.ATTENTION_ASKS:
        options["transformer_options"] = extra
    return _call_attention(comfy.attend, heads, options, q, k, v, mask)


def _perturb_in_transformer(run: Pass, weaker: _Weaker, blocks: Sequence[Block]) -> None:
    """Stand in for self-attention over the image's tokens inside blocks of a transformer."""
    places = Places(run)
    there = run.options.get("optimized_attention_override")
    override = _Override(run, weaker, places, there)
    run.options["optimized_attention_override"] = as_function(override.attend)
    for block in blocks:
        module = run.network.module_of(block)
        run.detour(module, partial(override.inside, block, module.forward))
    places.watch(run)


@dataclass(frozen=True)
class _Override:
    """ComfyUI's attention override of one pass; ``there`` is the one from before."""

    run: Pass
    weaker: _Weaker
    places: Places
    there: Callable[..., Tensor] | None
    blocks: list[Block] = field(default_factory=list)
    """Those that the pass is in, the innermost last."""

    def inside(
        self, block: Block, original: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """A block's forward, during which its attention is weakened."""
        self.blocks.append(block)
        try:
            return original(*args, **kwargs)
        finally:
            self.blocks.pop()

    def attend(
        self,
        function: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """What is called in place of ComfyUI's attention ``function``."""
        unweakened = function if self.there is None else partial(self.there, function)
        by_head = kwargs.get("skip_reshape", False)
        length, width = (q.shape[2], q.shape[1] * q.shape[3]) if by_head else q.shape[1:]
        span = self.places.span(length, width)
        shared = by_head and kwargs.get("enable_gqa", False)
        same = k.shape == q.shape or (shared and k.shape[2:] == q.shape[2:])
        if not self.blocks or not same or span is None:
            return unweakened(q, k, v, *args, **kwargs)
        self.run.reached.add(self.blocks[-1])
        named = {**dict(zip(("heads", "mask", "attn_precision"), args, strict=False)), **kwargs}
        heads, mask = named.pop("heads"), named.pop("mask", None)
        joined = not named.pop("skip_output_reshape", False)
        named.pop("skip_reshape", None)
        if named.pop("enable_gqa", False) and by_head:
            # Heads that share keys and values.
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        if not by_head:
            q, k, v = (_by_head(t, heads) for t in (q, k, v))
        mask = perturbations.additive_mask(mask, q.dtype)
        attend = partial(_call_attention, unweakened, heads, named)
        out = self.weaker.attend(q, k, v, span, self.places.grid, mask, attend)
        return _joined(out) if joined else out


def _call_attention(
    function: Callable[..., Tensor],
    heads: int,
    options: Mapping[str, Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Call ComfyUI's attention on tensors ``[batch, heads, tokens, width]``."""
    out = function(q, k, v, heads, mask=mask, skip_reshape=True, **options)
    return _by_head(out, heads)


def _by_head(x: Tensor, heads: int) -> Tensor:
    # Some networks hand over values that are cut into heads already.
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
