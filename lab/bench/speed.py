"""Measure what guidance costs: the time of a step over its own model passes, and memory.

    make bench-speed
    make lab RUN="bench.speed --case base --case skip --repeats 8"

Takes the cases of cases.py on a U-Net as large as that of Stable Diffusion 1.5, in float32 on the
CPU, each in a process of its own, and writes build/bench/speed.json. Only ratios within one run
say much; seconds are those of the machine and of what else it does. To miss a target is no failure
here, but it is told.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from comfyui.install import ROOT, SetupError, comfyui_path
from tiny.comfyui import start_comfyui

from .figures import Figure, table

OUT = ROOT / "build" / "bench" / "speed.json"
KEYS = (
    "core",
    "base",
    "half-lora",
    "weight-functions",
    "weight-hooks",
    "repatching",
    "attention",
    "skip",
    "skip-more",
    "tokens",
    "dropout",
    "clock",
    "checkpoint",
    "weak-prompt",
    "history",
    "off",
    "outside",
    "arithmetic",
    "probe",
)


@dataclass(frozen=True)
class Settings:
    """How much is measured: steps of a run, runs of a case, and torch's threads or its choice."""

    steps: int
    repeats: int
    threads: int | None


def main(arguments: Sequence[str] | None = None) -> str | None:
    """The command line; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=KEYS, help="only this one; repeatable")
    parser.add_argument("--steps", type=at_least_two, default=6, help="of one sampling run")
    parser.add_argument("--repeats", type=at_least_two, default=3, help="runs of each case")
    parser.add_argument("--threads", type=int, help="1 on a busy machine; else as torch chooses")
    parser.add_argument("--json", action="store_true", help="one case, here, with JSON as output")
    options = parser.parse_args(arguments)
    settings = Settings(options.steps, options.repeats, options.threads)
    if options.json:
        if len(options.case or ()) != 1:
            parser.error("--json goes with one --case")
        json.dump(measure_here(options.case[0], settings), sys.stdout)
        return None
    try:
        comfyui_path()
    except SetupError as error:
        return str(error)
    try:
        return measure_all([key for key in KEYS if key in (options.case or KEYS)], settings)
    except KeyboardInterrupt:
        return "Interrupted. Nothing has been written."


def at_least_two(text: str) -> int:
    """For a first step or run differs from the others."""
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("must be 2 or more")
    return number


def measure_all(keys: Sequence[str], settings: Settings) -> str | None:
    """Measure cases one by one, print the table and write the file."""
    measured: dict[str, dict[str, Any]] = {}
    failed = []
    for number, key in enumerate(keys, 1):
        start = time.monotonic()
        print(f"{number}/{len(keys)} {key} …", end="", flush=True, file=sys.stderr)
        try:
            measured[key] = measure_apart(key, settings)
        except CaseError as error:
            failed.append(key)
            print(f" failed:\n{error}", file=sys.stderr)
        else:
            print(f" {time.monotonic() - start:.0f} s", file=sys.stderr)
    cases = {
        key: (case["title"], [*map(Figure.from_json, case["figures"])])
        for key, case in measured.items()
    }
    print(table(cases.values()))
    figures = [figure for _, figures in cases.values() for figure in figures]
    with_target = [figure for figure in figures if figure.target is not None]
    missed = sum(not figure.met for figure in with_target)
    print(f"\n{len(with_target) - missed} of {len(with_target)} targets are met.")
    if failed:
        return f"These could not be measured: {', '.join(failed)}."
    write({**asdict(settings), **measured[keys[0]]["machine"]}, cases)
    return None


def measure_here(key: str, settings: Settings) -> dict[str, Any]:
    """Measure one case in this process."""
    start_comfyui()
    import comfyui_version
    import torch

    from comfyui.library import load_pack, pack_folder

    from .cases import CASES, Bench

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    nodes = importlib.import_module("nodes")
    load_pack(nodes, pack_folder(comfyui_path()))
    bench = Bench(nodes.NODE_CLASS_MAPPINGS, steps=settings.steps, repeats=settings.repeats)
    # As ComfyUI executes nodes.
    with torch.inference_mode():
        report = CASES[key].measure(bench)
    return {
        "title": CASES[key].title,
        "figures": [figure.as_json() for figure in report.figures],
        "machine": {
            "comfyui": comfyui_version.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }


class CaseError(Exception):
    """A case that could not be measured; the message is what its process said last."""


def measure_apart(key: str, settings: Settings) -> dict[str, Any]:
    """Measure one case in a process of its own, for its memory to be its own."""
    command = [sys.executable, "-m", "bench.speed", "--json", "--case", key]
    command += ["--steps", str(settings.steps), "--repeats", str(settings.repeats)]
    if settings.threads is not None:
        command += ["--threads", str(settings.threads)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "lab")
    if process.returncode != 0:
        raise CaseError("\n".join(process.stderr.splitlines()[-15:]))
    return json.loads(process.stdout.splitlines()[-1])


def write(machine: dict[str, Any], cases: dict[str, tuple[str, list[Figure]]]) -> None:
    """Write the file for other programs."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        key: {"title": title, "figures": [figure.as_json() for figure in figures]}
        for key, (title, figures) in cases.items()
    }
    text = json.dumps({**machine, "cases": stored}, indent=2, ensure_ascii=False)
    OUT.write_text(text + "\n", encoding="utf-8")
    print(f"Written to {OUT.relative_to(ROOT)}.")


if __name__ == "__main__":
    sys.exit(main())
