"""Tables in Markdown, for pages that commands write."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int | None = None
) -> str:
    """A table in Markdown.

    Args:
        header: of each column.
        rows: as many cells as the header has, in each.
        words: how many of the first columns are words; the others are numbers, which stand on the
            right. None if all are words.
    """
    ruler = ["---" if words is None or i < words else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *rows))
