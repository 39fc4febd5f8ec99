"""The templates for artists, described briefly; `make templates` writes them to `workflows/`.

A template is a function in `checkpoints`, `families` or `methods`: which nodes, what they are
connected to, in which column. `saved` fills in from the schemas of a real ComfyUI what the page's
format wants besides, and lays the nodes out.
"""

from . import checkpoints, families, methods  # noqa: F401  # They register their templates.
from .graph import TEMPLATES, File, Graph, Node, Template

__all__ = ["TEMPLATES", "File", "Graph", "Node", "Template"]
