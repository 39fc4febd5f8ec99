"""The server of the tests: it starts, says plainly what fails, and leaves nothing behind."""

import os
import signal
import subprocess
import sys

import pytest

from comfyui import server as engine_server
from comfyui.install import ROOT
from comfyui.server import Interrupted, NodeError, Server, ServerError, running_server

pytestmark = pytest.mark.server

EMPTY_IMAGE = {
    "class_type": "EmptyImage",
    "inputs": {"width": 1, "height": 1, "batch_size": 1, "color": 255},
}


@pytest.fixture(scope="module")
def server():
    with running_server() as running:
        yield running


def preview(node_id: str) -> dict:
    return {"class_type": "PreviewImage", "inputs": {"images": [node_id, 0]}}


def group_exists(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return False
    return True


def test_offers_the_nodes(server: Server):
    offered = server.object_info()
    assert {"KSampler", "DigitConditioning"} <= offered.keys()


def test_runs_a_prompt(server: Server):
    entry = server.wait(server.queue({"picture": EMPTY_IMAGE, "9": preview("picture")}))
    (reference,) = entry["outputs"]["9"]["images"]
    assert server.image(reference).startswith(b"\x89PNG")


def test_failing_node_is_named(server: Server):
    shrink = {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["picture", 0], "upscale_method": "bilinear", "scale_by": 0.01},
    }
    prompt_id = server.queue({"picture": EMPTY_IMAGE, "shrink": shrink, "9": preview("shrink")})
    with pytest.raises(NodeError, match=r"node shrink \(ImageScaleBy\): .*size") as failure:
        server.wait(prompt_id)
    assert (failure.value.node_id, failure.value.node_type) == ("shrink", "ImageScaleBy")


def test_refused_input_is_named(server: Server):
    picture = {**EMPTY_IMAGE, "inputs": {**EMPTY_IMAGE["inputs"], "width": -1}}
    with pytest.raises(NodeError, match=r"node picture \(EmptyImage\): .*width"):
        server.queue({"picture": picture, "9": preview("picture")})


def test_unknown_node_is_named(server: Server):
    with pytest.raises(ServerError, match="NoSuchNode"):
        server.queue({"9": {"class_type": "NoSuchNode", "inputs": {}}})


def test_interrupt(server: Server):
    size = {"width": 1024, "height": 1024}
    prompt = {"0": {**EMPTY_IMAGE, "inputs": {**EMPTY_IMAGE["inputs"], **size}}}
    count = 200  # Far more than run before the interrupt arrives.
    for i in range(count):
        blur = {"image": [str(i), 0], "blur_radius": 5, "sigma": 1.0}
        prompt[str(i + 1)] = {"class_type": "ImageBlur", "inputs": blur}
    prompt["9999"] = preview(str(count))
    prompt_id = server.queue(prompt)
    with pytest.raises(TimeoutError):
        server.wait(prompt_id, timeout=0.5)
    server.interrupt()
    with pytest.raises(Interrupted):
        server.wait(prompt_id)


def test_end_of_the_server_is_reported_with_its_log(monkeypatch: pytest.MonkeyPatch):
    original = engine_server.command_line
    monkeypatch.setattr(engine_server, "command_line", lambda *a: [*original(*a), "--no-such-flag"])
    with (
        pytest.raises(ServerError, match=r"ended with status 2(.|\n)*--no-such-flag"),
        running_server(),
    ):
        pass


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_leaves_nothing_behind(end: signal.Signals):
    """Not even where the program around the server is ended while the server starts."""
    program = (
        "import comfyui.server as s\n"
        "s.Server.wait_until_ready = lambda self, timeout: print("
        "self.process.pid, self.base, flush=True)\n"
        "with s.running_server(): import time; time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as around:
        process_group, base = around.stdout.readline().split()
        assert group_exists(int(process_group))
        around.send_signal(end)
    assert not group_exists(int(process_group))
    assert not os.path.exists(base)


def test_stops_at_the_end_of_the_block():
    with running_server() as running:
        assert group_exists(running.process.pid)
    assert not group_exists(running.process.pid)
    assert not running.base.exists()
