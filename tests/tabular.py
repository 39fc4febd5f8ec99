"""Tables in Markdown, for pages that commands write."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False
) -> str:
    """A table in Markdown.

    Args:
        header: of each column.
        rows: as many cells as the header has, in each.
        numbers: whether all columns but the first are numbers, which stand on the right.
    """
    ruler = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *rows))
