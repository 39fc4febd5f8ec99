"""ComfyUI inside this very process: its modules to import, its nodes to call.

The order matters, and is ComfyUI's own: first the command line, which decides on the device and
the folders while modules are being imported, then `utils`, before anything else takes that
name, then the rest.
"""

import asyncio
import importlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from comfyui.install import ROOT, linked_pack

ASSETS = ROOT / "lab" / "assets"
PROMPTS_PACK = ROOT / "lab" / "node_pack"


class LoadError(RuntimeError):
    """ComfyUI could not load a node pack; the message holds what it logged."""


def pack_folder(comfyui: Path) -> Path:
    """This repository, as the folder in ComfyUI's `custom_nodes` that ComfyUI loads."""
    folder = linked_pack(comfyui)
    if folder is None:
        raise LoadError(
            f"{comfyui / 'custom_nodes'} has no link to {ROOT}; tests/comfyui/install.py makes it."
        )
    return folder


def command_line(comfyui: Path, base: Path, packs: Sequence[Path] = ()) -> list[str]:
    """ComfyUI's arguments for running on the CPU with `base` in the place of its own folders.

    Everything it reads and writes lies in `base`, apart from the tiny models and the two node
    packs, which it finds through a list of extra paths, with those that a test adds. So whatever
    models, settings and other node packs someone has in that ComfyUI stay out of the tests, and
    stay as they are.
    """
    (base / "custom_nodes").mkdir(parents=True)
    all_packs = [pack_folder(comfyui), PROMPTS_PACK, *packs]
    extra_paths = {
        "diffusion_models": str(ASSETS),
        "vae": str(ASSETS),
        "loras": str(ASSETS),
        "custom_nodes": "\n".join(str(each.parent) for each in all_packs),
    }
    # The file has to be YAML, and JSON is YAML.
    listing = base / "extra_model_paths.yaml"
    listing.write_text(json.dumps({"tests": extra_paths}), encoding="utf-8")
    return [
        "--cpu",
        *("--base-directory", str(base)),
        *("--extra-model-paths-config", str(listing)),
        # The one file that does not follow the base directory.
        *("--database-url", f"sqlite:///{base / 'comfyui.db'}"),
        "--disable-api-nodes",
        "--disable-all-custom-nodes",
        *("--whitelist-custom-nodes", *(each.name for each in all_packs)),
    ]


def prepare(comfyui: Path, base: Path) -> None:
    """Make ComfyUI's modules importable, with `base` as its base directory."""
    sys.path.insert(0, str(comfyui))
    own_arguments = sys.argv
    sys.argv = ["main.py", *command_line(comfyui, base)]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        arguments = importlib.import_module("comfy.cli_args").args
    finally:
        sys.argv = own_arguments
    extra_config = importlib.import_module("utils.extra_config")
    for (listing,) in arguments.extra_model_paths_config:
        extra_config.load_extra_path_config(listing)


def load_nodes(comfyui: Path) -> dict[str, type]:
    """Load ComfyUI's own nodes, this pack and the tiny models' prompts.

    Returns:
        All node classes by node id.
    """
    nodes = importlib.import_module("nodes")
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    for folder in (pack_folder(comfyui), PROMPTS_PACK):
        load_pack(nodes, folder)
    return nodes.NODE_CLASS_MAPPINGS


def load_pack(nodes: ModuleType, folder: Path) -> None:
    """Let ComfyUI's module `nodes` load the pack in this folder.

    ComfyUI logs what goes wrong in a pack and goes on without it. A test must not go on.
    """
    with _collected_log() as messages:
        loaded = asyncio.run(nodes.load_custom_node(str(folder)))
    if not loaded:
        raise LoadError(f"ComfyUI could not load {folder}:\n" + "\n".join(messages))


def loaded_pack(comfyui: Path) -> ModuleType:
    """The module that ComfyUI made of this repository; `load_nodes` comes first."""
    return sys.modules[_module_name(pack_folder(comfyui))]


def _module_name(folder: Path) -> str:
    # ComfyUI calls the module of a pack by its path, without the dots that would split it.
    return str(folder).replace(".", "_x_")


@contextmanager
def _collected_log() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)
