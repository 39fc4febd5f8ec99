"""The rooms of guiders: what each may import."""

import ast

import pytest

from comfyui.install import ROOT

FOLDER = ROOT / "guiders"
# From the lowest up, as guiders/__init__.py has them.
ROOMS = ["errors", "push", "comfy", "models", "record", "weaken", "run"]


def imported(room):
    """What the files of a room import: rooms of guiders, and packages from elsewhere."""
    path = FOLDER / room
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    for file in files:
        depth = len(file.relative_to(FOLDER).parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0]
            elif isinstance(node, ast.ImportFrom) and node.level == depth:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                yield from (name.split(".")[0] for name in names)


def test_every_file_is_in_a_room():
    there = {path.stem for path in FOLDER.iterdir() if path.name != "__pycache__"}
    assert there - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only(room):
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    assert above.isdisjoint(imported(room))


def test_arithmetic_knows_nothing_of_comfyui():
    assert {"comfy", "comfy_api", "nodes", "server"}.isdisjoint(imported("push"))
