"""The page of results as it is stored, and what else quotes it."""

import re

import pytest

from bench import budget_methods, passes_report, plans, quality
from bench.kinds import KINDS
from bench.methods import CLASSIFIER_FREE, SKIPPING, UNGUIDED, methods
from comfyui.install import ROOT

PAGE = quality.PAGE.read_text(encoding="utf-8")
PASSES_PAGE = quality.PASSES_PAGE.read_text(encoding="utf-8")


def section(name: str) -> str:
    _, _, rest = PAGE.partition(f"\n## {name}\n")
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_readme_has_the_summary_as_it_was_measured():
    summary = rows(section("In short"))
    assert len(summary) > 6
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n".join(summary) in readme


def test_page_has_the_words_of_what_writes_it():
    """The words change more often than the figures, which take hours."""
    around = re.split(r"\{\w+\}", quality.INTRO)
    for words in (*around, quality.IN_SHORT, quality.TAKEN, quality.MISSED):
        assert words in PAGE


@pytest.mark.parametrize("name", ["Two dimensions", "Digits", "Emoji"])
def test_every_part_has_its_pictures(name):
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", section(name))
    assert pictures
    assert all((quality.PAGE.parent / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("name", ["Digits", "Emoji"])
def test_every_way_was_measured(name):
    kind = KINDS[name.lower()]
    measured = [row.split("|")[1].strip() for row in rows(section(name))]
    ways = [way.name for way in methods(kind.weak, kind.best, kind.weakest, kind.scales)]
    assert {UNGUIDED, CLASSIFIER_FREE, SKIPPING} < set(ways)
    assert not set(ways) - set(measured)


def test_page_shows_the_credit_of_the_emoji():
    assert "OpenMoji" in section("Emoji") and "CC BY-SA 4.0" in section("Emoji")


def test_page_of_passes_has_the_words_of_what_writes_it():
    """The words change more often than the figures, which take hours."""
    for words in (passes_report.INTRO, passes_report.ABOUT_HISTORY, quality.LEARNT):
        for part in re.split(r"\{\w+\}", words):
            assert part in PASSES_PAGE


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_for_the_same_passes_was_measured(kind):
    _, _, ways = PASSES_PAGE.partition(f"## All ways: {kind}")
    measured = [row.split("|")[1].strip() for row in rows(ways.partition("\n## ")[0])]
    assert {way.name for way in budget_methods.by_passes(KINDS[kind])} == set(measured[2:])


@pytest.mark.parametrize("kind", KINDS)
def test_history_was_measured_with_every_sampler_and_number_of_steps(kind):
    _, _, table = PASSES_PAGE.partition(f"### {kind.capitalize()}")
    cells = [row.split("|")[1:3] for row in rows(table.partition("\n#")[0])[2:]]
    expected = [(each, steps) for each in plans.SAMPLERS for steps in plans.STEP_COUNTS]
    assert [(one.strip(), int(other)) for one, other in cells] == expected
