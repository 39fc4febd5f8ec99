"""Figures of a long benchmark, kept as they come, so that it can be interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


class Records:
    """Figures by the name of what was measured, in a JSON file.

    Args:
        path: of the file.
        settings: what the figures depend on; those of other settings are not used again.
        afresh: use none that are there.
    """

    def __init__(self, path: Path, settings: Figures, afresh: bool = False) -> None:
        self.path = path
        self._settings = settings
        self._figures: dict[str, Figures] = {}
        if path.exists() and not afresh:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["settings"] == settings:
                self._figures = stored["figures"]

    def get(self, name: str, measure: Callable[[], Figures], progress: str = "") -> Figures:
        """What is recorded under a name; measured now if nothing is.

        Args:
            measure: returns what JSON can hold.
            progress: printed beside the name when there is something to do.
        """
        if name not in self._figures:
            print(f"{progress} {name}".strip(), flush=True)
            self[name] = measure()
        return self._figures[name]

    def __contains__(self, name: str) -> bool:
        """Whether anything is recorded under a name."""
        return name in self._figures

    def __getitem__(self, name: str) -> Figures:
        """What is recorded under a name."""
        return self._figures[name]

    def __setitem__(self, name: str, figures: Figures) -> None:
        """Record what JSON can hold."""
        self._figures[name] = figures
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"settings": self._settings, "figures": self._figures}, indent=1)
        # In one go, so that an interruption leaves the old file or the new one.
        partial = self.path.with_suffix(".part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path)
