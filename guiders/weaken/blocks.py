"""The small language in which an artist names the blocks of a network.

One language serves U-Nets and transformers: ``middle``, ``input 4-6``, ``double 7-9, single 20``. A
bare number goes on with the name before it (``7, 8, 9``), ``all`` and ``auto`` are names too, and
``input 4.0-1`` picks single transformers inside a block of a U-Net. ``d2``, ``m0`` and ``u1`` count
only the blocks with attention, as the perturbed-attention nodes that artists know do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..errors import GuidanceError, bad_input
from .network import Block, Network, group_name

_ITEM = re.compile(
    r"(?P<name>[a-z]+(?:[_\s]+[a-z]+)*)?\s*(?:(?P<first>\d{1,6})(?:\s*-\s*(?P<last>\d{1,6}))?)?"
    r"(?:\s*\.\s*(?P<part>\d{1,6})(?:\s*-\s*(?P<last_part>\d{1,6}))?)?"
)

# Among the blocks with attention only: the shorthand of the perturbed-attention nodes.
_ORDINALS = {"d": "input", "m": "middle", "u": "output"}


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
        network: the network of the connected model.
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
        plain = group_name(name.rstrip("s")) if name not in self._network.groups else name
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
