"""Run the templates on the models of a ComfyUI, with the push and without: `make real`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from comfyui.install import ROOT, SetupError
from comfyui.library import PROMPTS_PACK, LoadError, pack_folder
from comfyui.server import Server, ServerError, running_server

from .measuring import measure
from .report import NUMBERS, Report
from .templates import LeftOut, Template

TEMPLATES = ROOT / "workflows"
OUT = ROOT / "build" / "real"
STOPWATCH = Path(__file__).parent / "stopwatch_pack"

_HAS_DEVICE = "import torch; a = torch.accelerator; print(a.is_available())"


def main(arguments: Sequence[str] | None = None) -> str | None:
    """The command line; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(prog="real", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", help="of templates, such as 'sdxl*'; repeatable")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="pairs of images of each")
    parser.add_argument("--steps", type=at_least(3), help="in place of the template's own")
    parser.add_argument("--size", type=at_least(16), help="of images in pixels, likewise")
    parser.add_argument("--models", type=folder, help="more models, in folders as ComfyUI has them")
    parser.add_argument(
        "--templates", type=folder, default=TEMPLATES, help="a folder, in place of ours"
    )
    parser.add_argument(
        "--out", type=place, default=OUT, help="where what an earlier run has written is deleted"
    )
    parser.add_argument("--python", default=sys.executable, help="that ComfyUI is to run on")
    parser.add_argument("--minutes", type=at_least(1), default=120, help="for one prompt at most")
    parser.add_argument("comfyui", nargs="*", help="arguments for ComfyUI, after --")
    options = parser.parse_args(arguments)
    if "COMFYUI_PATH" not in os.environ:
        return "COMFYUI_PATH must name the folder of a ComfyUI with models in it."
    if options.out.exists() and not (options.out / NUMBERS).exists():
        return f"{options.out} is there, and not from an earlier run. Name another folder."
    try:
        report = run(options)
    except (ServerError, SetupError, LoadError) as error:
        return str(error)
    except KeyboardInterrupt:
        return "Interrupted. ComfyUI has been stopped."
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    report.write(options.out)
    print(report.page())
    print(f"All of it is in {options.out}.")
    return f"These failed: {', '.join(report.failed)}." if report.failed else None


def at_least(least: int) -> Callable[[str], int]:
    """A whole number of the command line."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more")
        return value

    return number


def place(text: str) -> Path:
    """A path of the command line. `make` calls this in lab/, but not who calls `make`."""
    return (ROOT / Path(text).expanduser()).resolve()


def folder(text: str) -> Path:
    """A folder of the command line."""
    path = place(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path}")
    return path


def run(options: argparse.Namespace) -> Report:
    """Start ComfyUI, and run one template after the other."""
    paths = [
        path
        for path in sorted(options.templates.glob("*.json"))
        if any(fnmatch(path.stem, each) for each in options.only or ["*"])
    ]
    own = list(options.comfyui)
    if not {"--cpu", "--directml"} & set(own) and not has_device(options.python):
        own.append("--cpu")
    print("Starting ComfyUI …", flush=True)
    with running_server(
        packs=[PROMPTS_PACK, STOPWATCH],
        arguments=partial(with_its_models, own=own, models=options.models),
        python=options.python,
        environment={},
    ) as server:
        # First, since the server may have ended when all is done.
        system = server.get("/system_stats")
        object_info = server.object_info()
        settings = {name: getattr(options, name) for name in ("seeds", "steps", "size")}
        report = Report([], {}, {}, system, settings)
        waiting = list(paths)
        try:
            while waiting:
                run_one(server, waiting[0], object_info, options, report)
                del waiting[0]
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            report.left_out.update((path.stem, "it was interrupted") for path in waiting)
        return report


def run_one(
    server: Server,
    path: Path,
    object_info: Mapping[str, Any],
    options: argparse.Namespace,
    report: Report,
) -> None:
    """Measure a template and add it to the report, with a line of progress."""
    print(f"{path.stem} …", end=" ", flush=True)
    try:
        template = Template.read(path, object_info, options.steps, options.size)
        result = measure(server, template, object_info, options.seeds, 60 * options.minutes)
    except LeftOut as why:
        report.left_out[path.stem] = str(why)
        print(f"left out: {why}", flush=True)
    except (ServerError, OSError) as error:
        report.failed[path.stem] = str(error)
        print(f"failed: {error}", flush=True)
        # It may still be at work on a prompt that took too long.
        with suppress(ServerError, OSError):
            server.interrupt()
    else:
        report.results.append(result)
        ratios = ", ".join(f"{each:.2f}" for each in result.time_ratios)
        print(f"a step takes {ratios} times as long", flush=True)


def has_device(python: str) -> bool:
    """Whether torch has something faster than a CPU there."""
    answer = subprocess.run([python, "-c", _HAS_DEVICE], capture_output=True, text=True)
    return answer.stdout.strip() == "True"


def with_its_models(
    comfyui: Path,
    base: Path,
    packs: Sequence[Path],
    own: Sequence[str] = (),
    models: Path | None = None,
) -> list[str]:
    """ComfyUI's arguments for running on its own models, while it writes into `base` alone.

    Of its node packs it loads this one, and those given.
    """
    for name in ("output", "user"):
        (base / name).mkdir(parents=True)
    all_packs = [pack_folder(comfyui), *packs]
    listing = {"packs": {"custom_nodes": "\n".join(str(each.parent) for each in packs)}}
    if models is not None:
        folders = [each.name for each in models.iterdir() if each.is_dir()]
        listing["models"] = {"base_path": str(models), **{each: each for each in folders}}
    # The file has to be YAML, and JSON is YAML.
    path = base / "extra_model_paths.yaml"
    path.write_text(json.dumps(listing), encoding="utf-8")
    return [
        *("--output-directory", str(base / "output")),
        *("--temp-directory", str(base)),
        *("--user-directory", str(base / "user")),
        *("--database-url", f"sqlite:///{base / 'comfyui.db'}"),
        *("--extra-model-paths-config", str(path)),
        "--disable-api-nodes",
        "--disable-all-custom-nodes",
        *("--whitelist-custom-nodes", *(each.name for each in all_packs)),
        *own,
    ]


if __name__ == "__main__":
    sys.exit(main())
