"""The first image of the README: an artist who has a graph of ComfyUI's own and adds one node."""

import pytest
import torch

import cards
import demo
from comfyui.workflow import find_node

pytestmark = pytest.mark.server

# A graph with KSampler, once what is the pack's own is taken out of it.
WORKFLOW = "dynamic_negative"
WITHOUT_OURS = """() => {
    const { nodes } = app.graph;
    for (const node of nodes.filter(({ type }) => type.startsWith('BadVersion')))
        app.graph.remove(node);
    const find = wanted => nodes.find(({ type }) => type === wanted);
    find('UNETLoader').connect(0, find('KSampler'), 'model');
    for (const node of nodes) node.pos = [node.pos[0] + 2000, node.pos[1]];
}"""
CONNECT = """() => {
    const find = wanted => app.graph.nodes.find(({ type }) => type === wanted);
    find('UNETLoader').connect(0, find('BadVersionPatch'), 'model');
    find('BadVersionPatch').connect(0, find('KSampler'), 'model');
}"""


def test_patch_that_is_searched_for_and_connected_guides(page_in, server):
    page = page_in("en")
    page.clear()
    page.load(cards.load(WORKFLOW))
    page.page.evaluate(WITHOUT_OURS)

    def pictures():
        prompt = page.prompt()
        saved = server.wait(page.run())["outputs"][find_node(prompt, "SaveImage")]["images"]
        return prompt, demo.as_tensor([cards.opened(server, image) for image in saved])

    own, plain = pictures()
    assert not any(node["class_type"].startswith("BadVersion") for node in own.values())
    page.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [500, 350]; }")
    page.search("autoguidance", "Bad-Version Patch (Autoguidance)")
    page.page.evaluate(CONNECT)
    prompt, guided = pictures()
    assert len(prompt) == len(own) + 1
    assert guided.shape == plain.shape and (guided - plain).abs().mean() > 0.005
    assert torch.isfinite(guided).all()
    page.set_widget(int(find_node(prompt, "BadVersionPatch")), "weak_scale", 1.0)
    _, off = pictures()
    assert torch.equal(off, plain)
