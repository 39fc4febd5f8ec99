"""The command that makes models: all parts in their order, or one alone."""

import pytest

from tiny.making import make


@pytest.fixture
def made(tmp_path):
    """What a command with two parts makes in a new folder."""
    folder = tmp_path / "new"

    def made(*arguments):
        done = []

        def part(name):
            return lambda out: done.append((name, out, out.is_dir()))

        parts = {name: part(name) for name in ("first", "second")}
        make("Make something.", parts, ["--out", str(folder), *arguments])
        return done

    return made


def test_makes_all_parts_in_their_order(made, tmp_path):
    assert made() == [("first", tmp_path / "new", True), ("second", tmp_path / "new", True)]


def test_makes_one_part_alone(made, tmp_path):
    assert made("--only", "second") == [("second", tmp_path / "new", True)]


def test_other_parts_are_refused(made, capsys):
    with pytest.raises(SystemExit):
        made("--only", "third")
    assert "'first', 'second'" in capsys.readouterr().err
