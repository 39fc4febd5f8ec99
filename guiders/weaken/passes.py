"""Weak versions with the weights of the main model: a worse pass of the same network.

Each is a clone of the model with one wrapper around every pass (``WrappersMP.APPLY_MODEL``). While
the pass lasts, the wrapper stands in ComfyUI's patch points, and where a network has no patch point
around a block, in the block module's ``forward``. Nothing is left behind when the pass is over.

Here is the mechanism alone. What is changed while a pass lasts: :mod:`.skipping`,
:mod:`.attention`, :mod:`.tokens`, :mod:`.clock`, :mod:`.dropout`.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Size, Tensor, nn

from ..comfy import WrappersMP
from ..errors import bad_input
from ..models import time_of
from .blocks import summary
from .network import WHOLE, Block, Network, state_set_aside

if TYPE_CHECKING:
    from ..comfy import ModelPatcher

WRAPPER_KEY = "bad_version_weak_pass"

# What goes through a block: "img", and "txt" where text has a stream of its own.
Streams = dict[str, Any]
GoOn = Callable[[Streams], Streams]
Visit = Callable[[Block, Streams, GoOn], Streams]


@dataclass(frozen=True)
class Pass:
    """One pass of the network that is to be made worse.

    Attributes:
        network: as it runs.
        shape: of the latent that goes in, ``[batch, channels, (frames,) height, width]``; where
            sound or a camera goes in beside an image, of the image's.
        sigmas: its noise level, ``[batch]``.
        sampling: ComfyUI's ``model_sampling``, which knows what a noise level means.
        inputs: what else the network is given, by name.
        options: ComfyUI's transformer options of this pass, to be changed at will.
        undo: what is pushed here happens when the pass is over.
        reached: blocks that have been come to, to be made worse, in this pass or one before it.
        one_stream: lists whose blocks have been seen to return one tensor like their first.
    """

    network: Network
    shape: Size
    sigmas: Tensor
    sampling: Any
    inputs: Mapping[str, Any]
    options: dict[str, Any]
    undo: ExitStack
    reached: set[Block]
    one_stream: set[str]

    @property
    def sigma(self) -> float:
        """The noise level; asking for it waits for the device."""
        return float(self.sigmas.max())

    @property
    def time(self) -> float:
        """What the network's clock shows, 0 to 1, where 1 is noise alone."""
        return time_of(self.sampling, self.sigma)

    def replace(self, kind: str, key: tuple[Any, ...], patch: Callable[..., Any]) -> None:
        """Stand in one of ComfyUI's ``patches_replace``."""
        kinds = dict(self.options.get("patches_replace", {}))
        kinds[kind] = {**kinds.get(kind, {}), key: as_function(patch)}
        self.options["patches_replace"] = kinds

    def replacement(self, kind: str, *keys: tuple[Any, ...]) -> Callable[..., Any] | None:
        """What stands there already, under the first of ``keys`` that is taken."""
        there = self.options.get("patches_replace", {}).get(kind, {})
        return next((there[key] for key in keys if key in there), None)

    def stand_in(self, point: tuple[str, int], visit: Callable[[Streams, GoOn], Streams]) -> None:
        """Stand in ComfyUI's patch point around a block, in front of what stands there already."""
        self.replace("dit", point, partial(_at_point, visit, self.replacement("dit", point)))

    @staticmethod
    def image_of(stream: Any) -> Tensor:
        """The image's part of its stream; sound may go along."""
        return stream if isinstance(stream, Tensor) else stream[0]

    @staticmethod
    def with_image(stream: Any, image: Tensor) -> Any:
        """A stream with another image in it."""
        return image if isinstance(stream, Tensor) else (image, *stream[1:])

    def detour(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let ``forward`` stand in for a module's own until the pass is over."""
        own = module.__dict__.get("forward")
        module.forward = forward
        if own is None:
            self.undo.callback(delattr, module, "forward")
        else:
            self.undo.callback(setattr, module, "forward", own)


class _NothingCompiled:
    """Runs what is compiled (core's TorchCompileModel) as it was written, for a while.

    What stands in for parts of the network is new at each pass, and so would be what is compiled:
    the network again and again, which takes far longer than the pass.

    PyTorch knows one stance for all threads, and passes on several devices overlap: the first to
    come changes it, and the last to go puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stance = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            # Came with PyTorch 2.6.
            set_stance = getattr(torch.compiler, "set_stance", None)
            if self._inside == 0 and set_stance is not None:
                self._stance.enter_context(set_stance("force_eager"))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._stance.close()


nothing_compiled = _NothingCompiled()


def as_function(method: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function that calls ``method``.

    Whoever copies the options of a model deeply copies objects with all that they know, a whole
    network here, but no functions.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return call


def _at_point(
    visit: Callable[[Streams, GoOn], Streams],
    there: Callable[..., Streams] | None,
    args: Streams,
    extra: dict[str, Any],
) -> Streams:
    """What ComfyUI calls in a patch point around a block."""
    if there is None:
        return visit(args, extra["original_block"])
    return visit(args, lambda streams: there(streams, extra))


def weakened(
    node: str,
    model: ModelPatcher,
    blocks: Sequence[Block],
    change: Callable[[Pass], None],
) -> ModelPatcher:
    """Return a clone of ``model`` with ``change`` made to each of its passes.

    Args:
        node: display name of the artist's node, for messages.
        model: untouched.
        blocks: of its network, those that ``change`` makes worse; :data:`.network.WHOLE` alone
            where it has to do with no block.
        change: is called at the start of a pass, and notes in ``Pass.reached`` what it came to.
    """
    weak = model.clone()
    passes = _Passes(node, blocks, change)
    weak.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER_KEY, as_function(passes.run))
    return weak


@dataclass
class _Passes:
    """All passes of one weak model, and what they have come to."""

    node: str
    blocks: Sequence[Block]
    change: Callable[[Pass], None]
    reached: set[Block] = field(default_factory=set)
    one_stream: set[str] = field(default_factory=set)
    # Of each device by itself: several may make a pass at once, each in a thread with a copy of
    # the network.
    networks: WeakKeyDictionary[nn.Module, Network] = field(default_factory=WeakKeyDictionary)
    count: Iterator[int] = field(default_factory=itertools.count)

    def run(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """ComfyUI's wrapper around one pass."""
        module = executor.class_obj.diffusion_model
        network = self.networks.get(module)
        if network is None:
            network = Network(module, type(executor.class_obj.model_config).__name__)
            self.networks[module] = network
        options = dict(transformer_options or {})
        with ExitStack() as undo:
            undo.enter_context(nothing_compiled)
            undo.enter_context(state_set_aside(module))
            shape = torch.Size((kwargs.get("latent_shapes") or [x.shape])[0])
            inputs = {"context": c_crossattn, **kwargs}
            sampling = executor.class_obj.model_sampling
            seen = self.reached, self.one_stream
            self.change(Pass(network, shape, t, sampling, inputs, options, undo, *seen))
            denoised = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        # Only the first pass tells: others may rightly be cut short, by a cache of blocks, say.
        if next(self.count) == 0:
            self._report_missed(network)
        return denoised

    def _report_missed(self, network: Network) -> None:
        """Say which blocks were left as they are; that all of them were is an error."""
        missed = summary(block for block in self.blocks if block not in self.reached)
        if not self.reached and WHOLE in self.blocks:
            raise bad_input(
                self.node,
                "model",
                f"{network.name}, on which this node has no effect",
                "a model in which nothing else stands where this node does, or another kind of "
                "weakening",
            )
        if not self.reached:
            raise bad_input(
                self.node,
                "blocks",
                f"{missed}, on which this node has no effect in this model ({network.name})",
                "other blocks, none of which another node skips, or another kind of weakening",
            )
        if missed:
            logging.warning(
                "%s: no effect on %s of this model (%s).", self.node, missed, network.name
            )


class Around:
    """Calls something in place of blocks of a transformer, while a pass lasts.

    ComfyUI's patch point around the block is used where the network has one; where it has none,
    nothing calls what stands there, and the block module's own ``forward`` is taken.

    Args:
        node: display name of the artist's node, for messages.
        run: the pass.
        blocks: of the network.
        visit: is called with a block, what goes into it, and what is to be called to go on.
    """

    def __init__(self, node: str, run: Pass, blocks: Sequence[Block], visit: Visit) -> None:
        self._node = node
        self._run = run
        self._visit = visit
        self._inside: set[Block] = set()
        for block in blocks:
            if block.point is not None:
                run.stand_in(block.point, partial(self._visited, block))
            module = run.network.module_of(block)
            run.detour(module, partial(self._at_module, block, module.forward))

    def _visited(self, block: Block, streams: Streams, go_on: GoOn) -> Streams:
        self._inside.add(block)
        try:
            return self._visit(block, streams, go_on)
        finally:
            self._inside.discard(block)

    def _at_module(
        self, block: Block, original: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        if block in self._inside:
            return original(*args, **kwargs)
        names = self._run.network.hands_on(block)
        if names:
            return self._with_names(block, names, original, args, kwargs)
        call = _Call(original, args, kwargs)
        if block.group not in self._run.one_stream:
            self._require_one_stream(block, call)
            self._run.one_stream.add(block.group)
        stream = self._run.network.stream_of(block)
        go_on = partial(call.go_on, stream)
        return self._visited(block, {stream: call.x}, go_on)[stream]

    def _with_names(
        self,
        block: Block,
        names: Sequence[str],
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, ...]:
        """Call a block that returns several of its arguments, changed."""
        module = self._run.network.module_of(block)
        given = signature(type(module).forward).bind(module, *args, **kwargs).arguments
        others = dict(list(given.items())[1:])

        def go_on(streams: Streams) -> Streams:
            return dict(zip(names, original(**{**others, **streams}), strict=True))

        streams = self._visited(block, {name: given[name] for name in names}, go_on)
        return tuple(streams[name] for name in names)

    def _require_one_stream(self, block: Block, call: _Call) -> None:
        """Find out by one call whether a block can be treated as a function of one sequence."""
        if isinstance(call.x, Tensor):
            out = call.on_a_copy()
            if isinstance(out, Tensor) and out.shape == call.x.shape:
                return
        raise bad_input(
            self._node,
            "blocks",
            f"{block}, which passes on more than one sequence, and which this ComfyUI lets nobody "
            "stand in for",
            f"other blocks than those of {block.group}, or another way to weaken the model, such "
            "as noise or dropout",
        )


class _Call:
    """One call of a block, as a function of its first argument, which may have a name."""

    def __init__(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._original = original
        self._args = args
        self._kwargs = kwargs
        self._name = None if args else next(iter(kwargs))
        self.x = args[0] if args else kwargs[self._name]

    def go_on(self, stream: str, streams: Streams) -> Streams:
        if self._name is None:
            return {stream: self._original(streams[stream], *self._args[1:], **self._kwargs)}
        return {stream: self._original(**{**self._kwargs, self._name: streams[stream]})}

    def on_a_copy(self) -> Any:
        """The call with a copy of the first argument, since blocks may work in place."""
        if self._name is None:
            return self._original(self.x.clone(), *self._args[1:], **self._kwargs)
        copied = {k: v.clone() if v is self.x else v for k, v in self._kwargs.items()}
        return self._original(**copied)


class Places:
    """Where the image's tokens are in the sequences of one pass of a transformer.

    Attributes:
        grid: frames, rows and columns of them.
    """

    def __init__(self, run: Pass) -> None:
        network, row = run.network, run.network.architecture
        self.grid = network.grid(run.shape)
        self._run = run
        self._row = row
        self._count = math.prod(self.grid)
        self._image_first = network.image_first
        self._main = network.groups.get(network.main, [])
        # Length of the image's stream: padded in some networks, longer with reference images.
        self._stream = math.ceil(self._count / network.padding) * network.padding
        self._width: int | None = None
        self._before = sum(
            math.prod(network.grid(each.shape))
            for name in row.before
            for each in _all(run.inputs.get(name))
        )
        self._can_be_told = not any(_all(run.inputs.get(name)) for name in row.mixed)

    def watch(self, run: Pass) -> None:
        """Note how long the image's stream is where the network has it apart from the text.

        To be called last, so that nothing else stands in front of the patch point.
        """
        for block in self._main[:1]:
            if block.point is not None:
                run.stand_in(block.point, partial(self._note, block))

    def span(self, length: int, width: int) -> slice | None:
        """The image's tokens in a sequence of ``length`` of such a width; None if not in it."""
        row = self._row
        alone = self._stream, self._width or width
        if not self._can_be_told or (row.alone and (length, width) != alone):
            return None
        if row.text:
            start = sum(text.shape[1] for text in _all(self._run.inputs.get(row.text)))
        else:
            start = 0 if self._image_first else length - self._stream
        if row.image_ends_stream:
            start += self._stream - self._count
        start += self._before
        return slice(start, start + self._count) if 0 <= start <= length - self._count else None

    def _note(self, block: Block, streams: Streams, go_on: GoOn) -> Streams:
        image = self._run.image_of(streams[self._run.network.stream_of(block)])
        self._stream, self._width = image.shape[-2:]
        return go_on(streams)


def _all(given: Any) -> Iterable[Tensor]:
    """What a network is given under a name: nothing, a tensor, or several."""
    if given is None:
        return []
    return [given] if isinstance(given, Tensor) else given
