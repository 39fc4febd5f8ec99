"""The blocks of a network, and the small language in which an artist names them.

One language serves U-Nets and transformers: ``middle``, ``input 4-6``, ``double 7-9, single 20``. A
bare number goes on with the name before it (``7, 8, 9``), ``all`` and ``auto`` are names too, and
``input 4.0-1`` picks single transformers inside a block of a U-Net. ``d2``, ``m0`` and ``u1`` count
only the blocks with attention, as the perturbed-attention nodes that artists know do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ..errors import GuidanceError, bad_input
from ..models import name_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

_ITEM = re.compile(
    r"(?P<name>[a-z]+(?:[_\s]+[a-z]+)*)?\s*(?:(?P<first>\d{1,6})(?:\s*-\s*(?P<last>\d{1,6}))?)?"
    r"(?:\s*\.\s*(?P<part>\d{1,6})(?:\s*-\s*(?P<last_part>\d{1,6}))?)?"
)

# The lists that most of a transformer's depth may sit in, by their name without "_blocks".
_MAIN_GROUPS = ("double", "joint", "transformer", "block", "layer")

# Among the blocks with attention only: the shorthand of the perturbed-attention nodes.
_ORDINALS = {"d": "input", "m": "middle", "u": "output"}


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


class Network:
    """A diffusion model as the list of its blocks.

    Args:
        module: ComfyUI's ``diffusion_model`` of any architecture.
        name: of the architecture, for messages; by default that of the module's class.

    Attributes:
        groups: blocks by name of their list, in the order in which the network has them.
        main: name of the list with most of a transformer's depth; "" for U-Nets.
    """

    def __init__(self, module: nn.Module, name: str | None = None) -> None:
        self.module = module
        self.name = name or type(module).__name__
        self.is_unet = hasattr(module, "input_blocks") and hasattr(module, "output_blocks")
        self.main = ""
        groups = self._unet_groups() if self.is_unet else self._transformer_groups()
        self.groups = groups or {"network": [Block("network", 0, "")]}

    @classmethod
    def of(cls, model: ModelPatcher) -> Network:
        """The network that a patcher runs."""
        return cls(model.get_model_object("diffusion_model"), name_of(model))

    @property
    def blocks(self) -> list[Block]:
        """All blocks; the network as a whole is the only one where no lists of them are found."""
        return [block for group in self.groups.values() for block in group]

    def module_of(self, block: Block) -> nn.Module:
        """The module of a block."""
        return self.module.get_submodule(block.path)

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

    def weight_keys(self, model: ModelPatcher, blocks: Iterable[Block]) -> list[str]:
        """Keys of all weights inside ``blocks``, as ``ModelPatcher.add_patches`` takes them."""
        prefixes = tuple(
            f"diffusion_model.{block.path}." if block.path else "diffusion_model."
            for block in blocks
        )
        return [key for key in model.model.state_dict() if key.startswith(prefixes)]

    def depth(self, start: float, end: float) -> list[Block]:
        """Blocks of the main list between two shares of its depth, one at least."""
        blocks = self.groups.get(self.main, [])
        first = min(round(start * len(blocks)), len(blocks) - 1)
        return blocks[first : max(first + 1, round(end * len(blocks)))]

    def _unet_groups(self) -> dict[str, list[Block]]:
        def listed(group: str) -> list[Block]:
            count = len(getattr(self.module, f"{group}_blocks"))
            return [Block(group, i, f"{group}_blocks.{i}") for i in range(count)]

        # Some distilled ones have no middle.
        has_middle = getattr(self.module, "middle_block", None) is not None
        middle = {"middle": [Block("middle", 0, "middle_block")]} if has_middle else {}
        return {"input": listed("input"), **middle, "output": listed("output")}

    def _transformer_groups(self) -> dict[str, list[Block]]:
        paths = [
            path
            for path, module in self.module.named_modules()
            if isinstance(module, nn.ModuleList | nn.ModuleDict) and _are_blocks(module)
        ]
        # Lists inside of blocks are parts of these, not blocks.
        outermost = min((path.count(".") for path in paths), default=0)
        lists: dict[str, str] = {}
        for path in (path for path in paths if path.count(".") == outermost):
            name = _group_name(path.rsplit(".", 1)[-1])
            lists[path.lower() if name in lists else name] = path
        lengths = {group: len(self.module.get_submodule(path)) for group, path in lists.items()}
        known = [name for name in _MAIN_GROUPS if name in lengths]
        self.main = known[0] if known else max(lengths, key=lengths.__getitem__, default="")
        points = {self.main: "double_block", "single": "single_block"}
        groups: dict[str, list[Block]] = {}
        for group, path in lists.items():
            point = points.get(group)
            groups[group] = [
                Block(group, i, f"{path}.{name}", point=None if point is None else (point, i))
                for i, (name, _) in enumerate(self.module.get_submodule(path).named_children())
            ]
        return groups


def choose(
    node: str,
    network: Network,
    text: str,
    auto: Iterable[Block],
    fits: Callable[[Block], bool] = lambda block: True,
    need: str = "",
) -> list[Block]:
    """Read which blocks an artist means.

    Args:
        node: display name of the node that has the input ``blocks``.
        network: the network of the plugged-in model.
        text: what the artist typed.
        auto: what ``auto`` stands for.
        fits: whether a block can be weakened in the way that the node does.
        need: what a block must have for that, in words.

    Returns:
        The blocks, each once, in the order of the network. Of an item, those that fit.

    Raises:
        GuidanceError: for what cannot be read, what the network does not have, and where no
            block of an item fits; it lists what there is.
    """
    reader = _Reader(node, network, fits, need)
    chosen = [block for item in re.split(r"[,;\n]+", text) for block in reader.read(item, auto)]
    if not chosen:
        raise reader.error("nothing" if not text.strip() else f"'{text.strip()}'")
    whole = {(block.group, block.index) for block in chosen if block.part is None}
    unique = {
        block.path: block
        for block in chosen
        if block.part is None or (block.group, block.index) not in whole
    }
    groups = list(network.groups)
    return sorted(unique.values(), key=lambda b: (groups.index(b.group), b.index, b.part or 0))


class _Reader:
    """Reads one item after the other, and remembers which list a bare number belongs to."""

    def __init__(
        self, node: str, network: Network, fits: Callable[[Block], bool], need: str
    ) -> None:
        self._node = node
        self._network = network
        self._fits = fits
        self._need = need
        self._group = network.main

    def read(self, item: str, auto: Iterable[Block]) -> list[Block]:
        item = item.strip()
        if not item:
            return []
        match = _ITEM.fullmatch(item.lower())
        if match is None:
            raise self.error(f"'{item}'")
        name = re.sub(r"\s+", "_", match["name"] or "")
        if name in ("auto", "all"):
            if match["first"] is not None or match["part"] is not None:
                raise self.error(f"'{item}'")
            return self._fitting(auto if name == "auto" else self._network.blocks, item)
        pool = self._pool(name, item)
        if match["first"] is not None:
            pool = self._cut(pool, match["first"], match["last"], item)
        if match["part"] is not None:
            pool = [
                part
                for transformers in map(self._network.transformers, pool)
                if transformers
                for part in self._cut(transformers, match["part"], match["last_part"], item)
            ]
        return self._fitting(pool, item)

    def error(self, came: str) -> GuidanceError:
        there = summary(block for block in self._network.blocks if self._fits(block))
        blocks = f"blocks{f' with {self._need}' if self._need else ''}"
        model = f"this model ({self._network.name})"
        expected = f"names and numbers of {blocks} that {model} has: {there}; or 'auto', or 'all'"
        return bad_input(
            self._node,
            "blocks",
            came,
            expected if there else f"a model with {blocks}; {model} has none",
        )

    def _pool(self, name: str, item: str) -> list[Block]:
        groups = self._network.groups
        if self._network.is_unet and name in _ORDINALS:
            self._group = _ORDINALS[name]
            return [b for b in groups.get(self._group, []) if self._network.transformers(b)]
        if name:
            self._group = self._group_of(name)
        if self._group not in groups:
            raise self.error(f"'{item}'")
        return groups[self._group]

    def _group_of(self, name: str) -> str:
        plain = _group_name(name.rstrip("s")) if name not in self._network.groups else name
        # What ComfyUI's own nodes call the main blocks of any transformer.
        if plain == "double" and plain not in self._network.groups:
            return self._network.main
        return plain

    def _cut(self, pool: list[Block], first: str, last: str | None, item: str) -> list[Block]:
        start, end = int(first), int(first if last is None else last)
        if not start <= end < len(pool):
            raise self.error(f"'{item}'")
        return pool[start : end + 1]

    def _fitting(self, blocks: Iterable[Block], item: str) -> list[Block]:
        fitting = [block for block in blocks if self._fits(block)]
        if not fitting:
            raise self.error(f"'{item}'")
        return fitting


def summary(blocks: Iterable[Block]) -> str:
    """Say in few words which blocks these are: ``input 1-2, input 4, middle``."""
    runs: list[list[Block]] = []
    for block in blocks:
        last = runs[-1][-1] if runs else None
        follows = last and (last.group, last.index + 1) == (block.group, block.index)
        if follows and block.part is None and last.part is None:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1].index}" for run in runs)


def _group_name(attribute: str) -> str:
    """What an artist calls a list of modules: ``double`` for ``double_blocks``."""
    name = re.sub(r"(_stream)?_(block|layer)s?$", "", attribute.lower())
    return name.rstrip("s") if name in ("blocks", "layers") else name


def _are_blocks(modules: nn.ModuleList | nn.ModuleDict) -> bool:
    """Tell a list of blocks from a list of small projections."""
    children = list(modules.children())
    return bool(children) and all(
        sum(p.ndim >= 2 for p in child.parameters()) >= 2 for child in children
    )
