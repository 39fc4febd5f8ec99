"""What tests of single nodes share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def no_gradients():
    """ComfyUI executes nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture
def node(comfy_nodes) -> Callable[..., Any]:
    """Call a node by its id with its own defaults, some of them changed; get its first output."""
    # ComfyUI can be imported only once pytest is configured, which is after this module is read.
    from support.rig import call, untouched

    def node(node_id, **inputs):
        return call(comfy_nodes[node_id], **untouched(comfy_nodes[node_id]) | inputs)[0]

    return node


@pytest.fixture
def refused(node, comfy_nodes, pack) -> Callable[..., list[str]]:
    """Expect an error that names the node and an input; return what it says came and was wanted."""

    def refused(node_id, name, **inputs):
        with pytest.raises(pack.guiders.errors.GuidanceError) as caught:
            node(node_id, **inputs)
        display_name = comfy_nodes[node_id].define_schema().display_name
        # A paper's word behind a name is there for the search of the page only.
        display_name = display_name.removesuffix(" (Autoguidance)")
        start, middle = f"{display_name}, input '{name}': got ", ". Expected "
        text = str(caught.value)
        assert text.startswith(start) and middle in text and text.endswith(".")
        return text[len(start) :].split(middle)

    return refused
