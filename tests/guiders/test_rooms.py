"""The rooms of guiders: what each may import."""

import ast

import pytest

from comfyui.install import ROOT

FOLDER = ROOT / "guiders"
# From the lowest up, as guiders/__init__.py has them.
ROOMS = ["errors", "push", "comfy", "models", "record", "weaken", "run"]
# The same for the files of the door to ComfyUI.
DOOR = ["needed", "runs", "patchers", "weights", "text"]


# Private on what patchers load and layers do, beside what the door itself asks patchers for.
PRIVATE_ON_MODELS = {
    "bias_function",
    "comfy_cast_weights",
    "current_patcher",
    "inner_model",
    "is_dynamic",
    "manual_cast_dtype",
    "model_lowvram",
    "pinned",
    "weight_function",
}
# What variables that hold a patcher are called.
PATCHERS = {"base", "main", "model", "model_patcher", "patched", "patcher", "weak", "weak_model"}

# ComfyUI's own, at the top of its folder.
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "execution", "folder_paths", "nodes", "server"}


def files_of(room):
    path = FOLDER / room
    return [*path.rglob("*.py")] if path.is_dir() else [path.with_suffix(".py")]


def parsed(file):
    return ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def rooms_imported(room):
    """Rooms of guiders that the files of a room import."""
    for file in files_of(room):
        depth = len(file.relative_to(FOLDER).parts)
        for node in parsed(file):
            if isinstance(node, ast.ImportFrom) and node.level == depth:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                yield from (name.split(".")[0] for name in names)


def packages_imported(room):
    """Packages from elsewhere that the files of a room import."""
    for file in files_of(room):
        yield from packages_of(parsed(file))


def packages_of(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_every_file_is_in_a_room():
    there = {path.stem for path in FOLDER.iterdir() if path.name != "__pycache__"}
    assert there - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only(room):
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    assert above.isdisjoint(rooms_imported(room))


def test_arithmetic_knows_nothing_of_comfyui():
    assert set(rooms_imported("push")) <= {"errors", "push"}
    assert COMFYUI.isdisjoint(packages_imported("push"))


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "comfy"])
def test_comfyui_is_behind_one_door(room, pack):
    """Neither its modules nor what it keeps for itself on models is named anywhere else."""
    assert COMFYUI.isdisjoint(packages_imported(room))
    private = {*pack.guiders.comfy.NEEDED_ON_PATCHERS, *PRIVATE_ON_MODELS}
    for file in files_of(room):
        for node in parsed(file):
            # Fields of our own have the same names, such as the patches of a weak tensor.
            owner = getattr(getattr(node, "value", None), "id", None)
            if isinstance(node, ast.Attribute) and (owner is None or owner in PATCHERS):
                assert node.attr not in private, f"{file.name}, line {node.lineno}: {node.attr}"


def test_every_file_of_the_door_has_its_place():
    assert {file.stem for file in files_of("comfy")} - {"__init__"} == set(DOOR)


@pytest.mark.parametrize("name", DOOR)
def test_imports_in_the_door_go_one_way(name):
    nodes = parsed(FOLDER / "comfy" / f"{name}.py")
    beside = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1}
    assert beside <= set(DOOR[: DOOR.index(name)])


def test_what_looks_for_names_needs_none_itself():
    tree = ast.parse((FOLDER / "comfy" / "needed.py").read_text(encoding="utf-8"))
    assert COMFYUI.isdisjoint(packages_of(tree.body))
