"""What all tests share: ComfyUI, and the nodes as ComfyUI loads them."""

import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from comfyui import install, library
from comfyui.server import Server, running_server


class RootIsNoPackage:
    """Keeps pytest from importing the repository's `__init__.py`, which is ComfyUI's to load."""

    @staticmethod
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        """Collect the root as a plain folder; leave all other folders to pytest."""
        return pytest.Dir.from_parent(parent, path=path) if path == install.ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    """Make ComfyUI importable before the first test module is read."""
    config.pluginmanager.register(RootIsNoPackage())
    base = tempfile.TemporaryDirectory(prefix="bad-version-guider-")
    config.add_cleanup(base.cleanup)
    try:
        library.prepare(install.comfyui_path(), Path(base.name))
    except (install.SetupError, library.LoadError) as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_finish() -> None:
    """Seek garbage only among what comes after: all tests, read by now, live to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_dead_models() -> Iterator[None]:
    """Have ComfyUI forget models of which a test, by an error's traceback, left the network alone.

    While there is one, ComfyUI collects garbage at each load, which takes ten times as long as a
    small model's run.
    """
    yield
    management = sys.modules.get("comfy.model_management")
    if management is not None:
        loaded = management.current_loaded_models
        loaded[:] = [model for model in loaded if not model.is_dead()]


@pytest.fixture(scope="session")
def comfy_nodes() -> dict[str, type]:
    """All node classes by node id: ComfyUI's own, those of this pack and of the digits."""
    return library.load_nodes(install.comfyui_path())


@pytest.fixture(scope="session")
def pack(comfy_nodes: dict[str, type]) -> ModuleType:
    """This pack, as the module that ComfyUI has loaded."""
    return library.loaded_pack(install.comfyui_path())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running ComfyUI server with this pack, for all tests that do not care how it began."""
    with running_server() as running:
        yield running
