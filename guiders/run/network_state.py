"""What a network remembers between passes, kept apart for a weak pass of the same network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class NetworkState:
    """A network's own attributes as one side knows them.

    Caches of steps put what one pass has computed on the network, for the next one to read. What a
    weak pass reads there must be its own, and what it leaves must not be read by the main one.

    Args:
        network: as it is before the run.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._own = {name: _copied(value) for name, value in self._attributes().items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network know what this side left there, and nothing else."""
        others = self._attributes()
        self._set(self._own)
        try:
            yield
        finally:
            self._own = self._attributes()
            self._set(others)

    def _attributes(self) -> dict[str, Any]:
        # What begins with an underscore is torch's: parameters, modules, hooks.
        own = vars(self._network)
        return {name: value for name, value in own.items() if not name.startswith("_")}

    def _set(self, attributes: dict[str, Any]) -> None:
        there = self._attributes()
        own = vars(self._network)
        for name in there.keys() - attributes.keys():
            del own[name]
        for name, value in attributes.items():
            if name not in there or there[name] is not value:
                own[name] = value


def _copied(value: Any) -> Any:
    """A container of its own, where something may be put into it; anything else as it is."""
    if type(value) is dict:
        return {key: _copied(each) for key, each in value.items()}
    if type(value) is list:
        return [_copied(each) for each in value]
    return value
