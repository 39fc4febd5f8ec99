"""What a node shows on itself while others run."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io
from server import PromptServer


def progress_text(node: type[io.ComfyNode]) -> Callable[[str], None] | None:
    """A function that shows a line of text on the node that is being executed, now and later.

    Args:
        node: as ComfyUI executes it, with the hidden input ``unique_id``.

    Returns:
        None if no page could show it.
    """
    node_id = None if node.hidden is None else node.hidden.unique_id
    if node_id is None:
        return None

    def show(text: str) -> None:
        server = getattr(PromptServer, "instance", None)
        # Only to the page that queued the prompt: others may show graphs with the same node ids.
        if server is not None and server.client_id is not None:
            server.send_progress_text(text, node_id, server.client_id)

    return show
