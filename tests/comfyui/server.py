"""A real ComfyUI server for the time of a `with` block.

    with running_server() as server:
        prompt_id = server.queue(prompt)
        entry = server.wait(prompt_id)
        png = server.image(entry["outputs"]["9"]["images"][0])

It runs on the CPU and writes into a temporary folder only; the ComfyUI that it is started from
stays as it was.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from comfyui.install import comfyui_path
from comfyui.library import command_line

POLL_INTERVAL = 0.05  # seconds

# The server is on this machine; a proxy of the environment is not asked for it.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(RuntimeError):
    """The server did not start, did not answer or does not accept a request."""


class NodeError(ServerError):
    """A node refused its inputs or failed while it ran."""

    def __init__(self, node_id: str, node_type: str, message: str) -> None:
        """Keep apart what the message puts together."""
        super().__init__(f"node {node_id} ({node_type}): {message}")
        self.node_id = node_id
        self.node_type = node_type
        self.message = message


class Interrupted(ServerError):
    """The prompt was cancelled before it was done."""


@dataclass(frozen=True)
class Server:
    """A running ComfyUI server, and what a client can ask of it."""

    url: str
    process: subprocess.Popen[bytes]
    base: Path
    log_file: Path

    @property
    def input_folder(self) -> Path:
        """Where the server looks for the images that a prompt loads."""
        return self.base / "input"

    def log(self) -> str:
        """What the server has printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def object_info(self) -> dict[str, Any]:
        """The description of every node that the server offers, by node id."""
        return self.get("/object_info")

    def queue(self, prompt: Mapping[str, Any]) -> str:
        """Queue a prompt in the API format; returns its id."""
        try:
            return json.loads(self._request("/prompt", {"prompt": prompt}))["prompt_id"]
        except urllib.error.HTTPError as refusal:
            raise _refusal(json.load(refusal)) from None

    def wait(self, prompt_id: str, timeout: float = 300) -> dict[str, Any]:
        """Wait until a prompt is done; returns its history entry, with its `outputs`."""
        deadline = time.monotonic() + timeout
        while True:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"The prompt {prompt_id} was not done after {timeout} s.")
            time.sleep(POLL_INTERVAL)
        entry = history[prompt_id]
        for event, details in entry["status"]["messages"]:
            if event == "execution_error":
                raise NodeError(
                    details["node_id"],
                    details["node_type"],
                    f"{details['exception_type']}: {details['exception_message'].strip()}",
                )
            if event == "execution_interrupted":
                raise Interrupted(f"The prompt was cancelled in node {details['node_id']}.")
        return entry

    def image(self, reference: Mapping[str, str]) -> bytes:
        """The file of an image, given as a history entry names it."""
        return self._request(f"/view?{urllib.parse.urlencode(reference)}")

    def get(self, path: str) -> Any:
        """What the server answers to a GET, in JSON; a node pack may have added the path."""
        return json.loads(self._request(path))

    def interrupt(self) -> None:
        """Cancel the prompt that is running, as the artist's Cancel does."""
        self._request("/interrupt", {})

    def free(self) -> None:
        """Have the server forget all models and outputs, at the latest before its second prompt."""
        self._request("/free", {"unload_models": True, "free_memory": True})

    def forget_history(self) -> None:
        """Have the server forget the prompts that are done."""
        self._request("/history", {"clear": True})

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with suppress(OSError):
                self._request("/system_stats")
                return
        raise self._failure(f"ComfyUI did not answer within {timeout} s")

    def _request(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Send a GET, or where there is a body, a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        try:
            with _http.open(request, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError:
            raise
        except OSError:
            with suppress(subprocess.TimeoutExpired):
                status = self.process.wait(POLL_INTERVAL)
                raise self._failure(f"ComfyUI has ended with status {status}") from None
            raise

    def _failure(self, what: str) -> ServerError:
        tail = self.log().splitlines()[-40:]
        return ServerError(f"{what}. Its last lines:\n" + "\n".join(tail))


def for_tests(comfyui: Path, base: Path, packs: Sequence[Path]) -> list[str]:
    """ComfyUI's arguments for the tiny models; see `library.command_line`."""
    # ComfyUI shows no previews by itself, and many artists have them.
    return [*command_line(comfyui, base, packs), "--preview-method", "auto"]


# Tiny models gain little from a second core, and lose much where it is a busy one.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@contextmanager
def running_server(
    comfyui: Path | None = None,
    timeout: float = 180,
    packs: Sequence[Path] = (),
    page: Path | None = None,
    arguments: Callable[[Path, Path, Sequence[Path]], list[str]] = for_tests,
    python: str = sys.executable,
    environment: Mapping[str, str] = MappingProxyType(ONE_THREAD),
) -> Iterator[Server]:
    """Start ComfyUI, wait until it answers, and leave no process and no file of it behind.

    Args:
        packs: folders of node packs for the test at hand alone.
        page: the folder of another page than that of this ComfyUI.
        arguments: makes ComfyUI's, from its folder, from a folder for all that it writes, and from
            the packs.
        python: that it runs on.
        environment: what is set for it where it is not set already.
    """
    comfyui = comfyui or comfyui_path()
    with tempfile.TemporaryDirectory(prefix="bad-version-guider-") as folder, _signals_unwind():
        base = Path(folder) / "comfyui"
        port = _free_port()
        command = [python, "-u", str(comfyui / "main.py"), *arguments(comfyui, base, packs)]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
        command += ["--front-end-root", str(page)] if page else []
        log_file = base / "server.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=base,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, **os.environ},
                start_new_session=True,  # Its own process group, to be stopped as a whole.
            )
        try:
            server = Server(f"http://127.0.0.1:{port}", process, base, log_file)
            server.wait_until_ready(timeout)
            yield server
        finally:
            # There is nothing to save: all that it wrote is about to be deleted.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let the signals that would end this process at once unwind it, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread can handle signals.
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    previous = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _refusal(answer: Mapping[str, Any]) -> ServerError:
    """The exception for a prompt that the server refuses to queue."""
    for node_id, node in answer["node_errors"].items():
        reasons = (f"{e['message']}: {e['details']}" for e in node["errors"])
        return NodeError(node_id, node["class_type"], "; ".join(reasons))
    error = answer["error"]
    return ServerError(f"{error['message']} {error['details']}".strip())
