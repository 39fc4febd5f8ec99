"""What an artist installs: the archive of the registry, and that of a release."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from comfyui import library
from comfyui.install import ROOT

MIB = 2**20
# What artists have no use for, by the start of its path.
LEFT_OUT = ("tests/", "lab/", ".", "Makefile")
LEFT_OUT += ("docs/choosing", "docs/help", "docs/passes", "docs/results")
# What ComfyUI, its page and its nodes read, with all that is in these folders.
NEEDED = ("guiders", "locales", "nodes", "playground", "web", "workflows")
BESIDE = {"LICENSE", "README.md", "__init__.py", "pyproject.toml"}


def run(*command: str, cwd: Path) -> str:
    """Run a command, without a terminal, telemetry or git's settings of whoever runs the tests."""
    own = {
        "DO_NOT_TRACK": "1",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@localhost",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@localhost",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": str(cwd.parent),
        "XDG_CONFIG_HOME": str(cwd.parent / "config"),
    }
    result = subprocess.run(
        command,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def comfy(*command: str, cwd: Path) -> str:
    """Run a command of ComfyUI's command-line tool."""
    return run(sys.executable, "-I", "-m", "comfy_cli", "--skip-prompt", *command, cwd=cwd)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with the files as they are now, committed or not."""
    folder = tmp_path_factory.mktemp("package") / "checkout"
    folder.mkdir()
    run("git", "init", "--quiet", cwd=folder)
    run("git", "--work-tree", str(ROOT), "add", "--all", str(ROOT), cwd=folder)
    run("git", "commit", "--quiet", "--message", "All files", cwd=folder)
    run("git", "reset", "--quiet", "--hard", cwd=folder)
    return folder


@pytest.fixture(scope="module", params=["registry", "release"])
def archive(request: pytest.FixtureRequest, checkout: Path) -> Path:
    """The archive that the registry is given, and the one that git makes of a release."""
    if request.param == "registry":
        comfy("node", "pack", cwd=checkout)
        return checkout / "node.zip"
    path = checkout.parent / "release.zip"
    run("git", "archive", "--output", str(path), "HEAD", cwd=checkout)
    return path


@pytest.fixture
def files(archive: Path) -> dict[str, int]:
    """The sizes of the files in an archive, by path."""
    with zipfile.ZipFile(archive) as opened:
        return {each.filename: each.file_size for each in opened.infolist() if not each.is_dir()}


def test_registry_accepts_the_pack(checkout):
    assert "All validation checks passed" in comfy("node", "validate", cwd=checkout)


def test_archive_is_small(archive, files):
    assert archive.stat().st_size < 3 * MIB
    assert sum(files.values()) < 8 * MIB


def test_archive_holds_what_the_pack_needs_and_nothing_else(checkout, files):
    tracked = run("git", "ls-files", cwd=checkout).splitlines()
    needed = {name for name in tracked if name.split("/")[0] in NEEDED}
    assert needed | BESIDE <= files.keys()
    assert [name for name in files if name.startswith(LEFT_OUT)] == []


def test_archive_holds_the_pictures_of_the_readme(files):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert pictures and set(pictures) <= files.keys()


def test_unpacked_archive_has_the_nodes_of_the_repository(
    comfy_nodes, pack, archive, tmp_path, monkeypatch
):
    folder = tmp_path / "bad-version-guider"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    nodes = sys.modules["nodes"]
    registers = ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "EXTENSION_WEB_DIRS")
    for register in (*registers, "LOADED_MODULE_DIRS"):
        monkeypatch.setattr(nodes, register, {})
    library.load_pack(nodes, folder)
    assert nodes.NODE_CLASS_MAPPINGS.keys() == {node.GET_SCHEMA().node_id for node in pack.NODES}
    assert str(folder / "web") in nodes.EXTENSION_WEB_DIRS.values()
