"""The comparison in two dimensions measures what it says; which way is better, it alone tells."""

import itertools
import json
import math

import pytest
import torch

from bench import plane, plane_report, plane_runs
from bench.plane_claim import Comparison, Point, compare, worst
from bench.plane_runs import (
    BAD_VERSION,
    CLASSIFIER_FREE,
    INTERVAL,
    UNGUIDED,
    WAYS,
    Results,
    Run,
    Way,
    wasserstein,
)
from bench.records import Records
from bench.tables import first_at, listing, mean_sd
from support.without_comfyui import module_without_comfyui
from tabular import markdown_table


def test_table_has_words_on_the_left_and_numbers_on_the_right():
    text = markdown_table(("way", "scale"), [("none", ""), ("weak", "2")], words=1)
    assert text == "| way | scale |\n| --- | ---: |\n| none |  |\n| weak | 2 |"


def test_mean_and_spread():
    assert mean_sd([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00"
    assert mean_sd([0.01, 0.03], 1, percent=True) == "2.0 ± 1.4 %"
    assert mean_sd([0.5], 1) == "0.5"


def test_listing():
    assert [listing([1]), listing([1, 2]), listing("abc")] == ["1", "1 and 2", "a, b and c"]


def test_curve_between_its_points():
    assert first_at([4.0, 2.0, 1.0], [0.0, 1.0, 5.0], 3.0) == pytest.approx(0.5)
    assert first_at([4.0, 2.0, 1.0], [0.0, 1.0, 5.0], 1.25) == pytest.approx(4.0)
    assert first_at([4.0, 2.0, 1.0], [0.0, 1.0, 5.0], 1.0) == 5.0
    assert first_at([2.0, 2.0], [0.0, 1.0], 2.0) == 0.0


def test_curve_that_turns_back_counts_where_it_comes_first():
    assert first_at([4.0, 2.0, 4.0], [0.0, 1.0, 9.0], 3.0) == pytest.approx(0.5)


@pytest.mark.parametrize("place", [0.9, 4.1])
def test_curve_that_does_not_come_there(place):
    assert first_at([4.0, 2.0, 1.0], [0.0, 1.0, 5.0], place) is None


def points(*pairs):
    """A curve of outliers and coverage; the scales count up from 1."""
    return [Point(float(scale), *pair) for scale, pair in enumerate(pairs, 1)]


def test_losses_at_as_many_outliers_and_outliers_at_the_same_coverage():
    free = points((0.10, 1.0), (0.06, 0.8), (0.04, 0.6))
    way = points((0.10, 1.0), (0.05, 0.9), (0.01, 0.5))
    first, second = compare(free, way, sure=0.01)
    # At 6 % of outliers it has lost 0.08, and at 0.8 it has gone a quarter of the way on to 1 %.
    assert first == Comparison(2.0, 0.06, *map(pytest.approx, (0.2, 0.08 / 0.2, 0.04 / 0.06)))
    # At 4 % it has lost 0.2; at 0.6 it has 2 %.
    assert second == Comparison(3.0, 0.04, *map(pytest.approx, (0.4, 0.2 / 0.4, 0.02 / 0.04)))


def test_what_is_no_more_than_chance_is_not_compared():
    free = points((0.10, 1.0), (0.06, 0.98), (0.04, 0.6))
    assert [each.cfg for each in compare(free, free, sure=0.05)] == [3.0]


def test_beyond_the_fewest_outliers_nothing_is_compared():
    free = points((0.10, 1.0), (0.04, 0.8), (0.06, 0.5))
    (only,) = compare(free, free, sure=0.01)
    assert (only.cfg, only.ratio, only.fewer) == (2.0, pytest.approx(1), pytest.approx(1))


def test_way_that_does_not_come_to_so_few_outliers():
    free = points((0.10, 1.0), (0.04, 0.8))
    (only,) = compare(free, points((0.10, 1.0), (0.05, 0.9)), sure=0.01)
    assert only.ratio is None and only.fewer is None


def test_worst_needs_all():
    assert worst([0.2, 0.4]) == 0.4
    assert worst([0.2, None]) is None and worst([]) is None


def results(harm):
    """Made-up ones: a way loses `harm` times the share of outliers that it removes."""

    def run(way, scale, seed):
        push = (scale - 1) / WAYS[way].scales[-1]
        removed = (0.4 if way == CLASSIFIER_FREE else 0.9) * push
        outliers, coverage = 0.1 * (1 - removed), 1 - harm.get(way, 0.2) * removed + 1e-4 * seed
        return Run(outliers, coverage, 0.1 + push, 0.03 + 0.02 * push, 2.0, 1.3)

    runs = {
        name: {scale: [run(name, scale, seed) for seed in range(3)] for scale in way.scales}
        for name, way in WAYS.items()
    }
    truth = [Run(0.01, 1 + 1e-3 * (-1) ** seed, 0.02, 0.02) for seed in range(4)]
    best = {name: way.scales[0] for name, way in WAYS.items()}
    return Results((0.01, 0.1), best, runs, truth)


def test_claim_by_made_up_results():
    """Both curves are straight, so the ratio of the losses is that of the harms everywhere."""
    found = results({CLASSIFIER_FREE: 1.0, BAD_VERSION: 0.45})
    comparisons = plane_report.compared(found, BAD_VERSION)
    assert [each.cfg for each in comparisons] == list(WAYS[CLASSIFIER_FREE].scales)
    assert [each.ratio for each in comparisons] == pytest.approx([0.45] * len(comparisons))
    (_, ratio, half), (_, _, fewer) = plane.targets(found)
    assert ratio == "0.45 times at most, 0.45 in a single seed" and half and fewer


@pytest.mark.parametrize("harm, reached", [(0.48, (True, True)), (0.6, (False, True))])
def test_target_is_half_of_the_loss(harm, reached):
    targets = plane.targets(results({CLASSIFIER_FREE: 1.0, BAD_VERSION: harm}))
    assert tuple(ok for _, _, ok in targets) == reached


def test_target_that_is_missed_in_both_respects():
    found = results({CLASSIFIER_FREE: 1.0, BAD_VERSION: 1.3})
    assert [ok for _, _, ok in plane.targets(found)] == [False, False]
    assert plane.section(found, "x").count("**Missed.**") == 2


def test_chance_is_that_of_a_difference():
    assert plane_report.chance(results({})) == pytest.approx(math.sqrt(2) * 2e-3 / math.sqrt(3))


def test_section_and_plot(tmp_path):
    found = results({CLASSIFIER_FREE: 1.0})
    text = plane.section(found, "results")
    assert text.startswith("## Two dimensions\n") and "](results/plane.png)" in text
    best, by_cfg, summary = tables(text)
    assert [row[0] for row in best[1:]] == [*WAYS, "true points"]
    assert best[1][1:3] == ["", "10.0 ± 0.0 %"]
    assert [float(row[0]) for row in by_cfg[1:]] == list(WAYS[CLASSIFIER_FREE].scales)
    assert [row[0] for row in summary[1:]] == plane_report.COMPARED
    assert "No cfg is left out." in text
    plane.plot(found, tmp_path)
    assert (tmp_path / "plane.png").stat().st_size > 10_000


def tables(text):
    """The cells of each table of a text, without the ruler under the header."""
    found = []
    for is_table, lines in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        if is_table:
            rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
            assert len({len(row) for row in rows}) == 1
            found.append([rows[0], *rows[2:]])
    return found


def test_section_names_the_scales_that_are_left_out():
    found = results({CLASSIFIER_FREE: 0.05})
    assert "cfg 1.1" in plane.section(found, "x")


def test_distance_of_moved_points(monkeypatch):
    """Moved by less than half of how far they are apart, each one has its own way back."""
    monkeypatch.setattr(plane_runs, "PAIRED", 8)
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    shuffled = torch.cat([half[torch.randperm(8)] for half in grid.split(8)])
    assert wasserstein(shuffled + torch.tensor([0.3, 0.0]), grid) == pytest.approx(0.3)
    assert wasserstein(grid, shuffled) == pytest.approx(0)


@pytest.fixture(scope="module")
def short():
    """The ways of a comparison that takes seconds."""
    some = (UNGUIDED, CLASSIFIER_FREE, INTERVAL, BAD_VERSION)
    ways = {name: Way(WAYS[name].method, WAYS[name].scales[:1]) for name in some}
    ways[CLASSIFIER_FREE] = Way("classifier_free", (2.0, 6.0))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "POINTS": 60,
            "PAIRED": 30,
            "TUNING": (0,),
            "REPORTED": (1, 2),
            "TRUTH_SEEDS": (3, 4),
            "WAYS": ways,
            "INTERVALS": ((0.1, 1.0), (0.01, 0.1)),
        }.items():
            patch.setattr(plane_runs, name, value)
        yield ways


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("plane") / "plane.json"


@pytest.fixture(scope="module")
def measured(short, path):
    return plane.measure(Records(path, plane.SETTINGS))


def test_every_way_is_measured_with_other_seeds_than_its_scale_was_chosen_with(
    short, measured, path
):
    assert {name: tuple(sweep) for name, sweep in measured.runs.items()} == {
        name: way.scales for name, way in short.items()
    }
    assert all(len(runs) == 2 for sweep in measured.runs.values() for runs in sweep.values())
    names = json.loads(path.read_text())["figures"]
    seeds = {"tune": {0}, "truth": {3, 4}}
    assert all(int(name[-1]) in seeds.get(name.split(",")[0], {1, 2}) for name in names)
    assert measured.best[CLASSIFIER_FREE] == 2.0  # 6 leaves most of the tree out.
    assert len(measured.truth) == 2 and measured.truth[0].outliers < 0.1


def test_nothing_is_measured_twice(measured, path, capsys):
    assert plane.measure(Records(path, plane.SETTINGS)) == measured
    assert capsys.readouterr().out == ""


def test_passes_are_those_made(measured):
    (plain,), (free, _), (weak,), (some,) = (
        measured.runs[name].values() for name in (UNGUIDED, CLASSIFIER_FREE, BAD_VERSION, INTERVAL)
    )
    assert plain[0].passes == plain[0].cost == 1
    assert free[0].passes == free[0].cost == 2
    assert weak[0].passes == 2 and 1.2 < weak[0].cost < 1.4
    assert 1 < some[0].passes < 2


def test_runs_are_those_of_the_playground(short):
    """The same points as from its own sampler, without a copy of anything."""
    figures = plane_runs._draw(short[BAD_VERSION], 2.0, 5, False)
    methods = module_without_comfyui("playground.methods")
    sampling = module_without_comfyui("playground.sampling")
    models = methods.models()
    settings = methods.Settings(2.0, 2.0)
    bad_versions = methods.bad_version(models, settings)
    ends = sampling.sample(models.main, methods.WANTED, bad_versions, 60, 5).ends
    ruler = module_without_comfyui("playground.scenes").ruler()
    assert figures["coverage"] == ruler.coverage(ends) and figures["distance"] is None
    assert figures["outliers"] == ruler.outliers(ends)
