"""The comparison on pictures: what it draws, how it chooses, and what it says."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench import (
    budget_methods,
    coarse,
    kinds,
    methods,
    passes_report,
    pictures,
    pictures_report,
    plans,
    quality,
)
from bench import studio as studio_module
from bench.measures import Outcome
from bench.methods import BOTH, CHEAP, ONE, ONE_SHAPED, REFERENCE, WEAK, Method, words
from bench.pictures import Report, Row
from bench.pictures_plots import frontier, shown
from bench.records import Records
from bench.studio import STEPS, Studio
from comfyui.running import call
from node_pack import EMPTY_CLASS, conditioning

DIGITS = kinds.KINDS["digits"]
OUTCOME = Outcome(1.0, 0.5, 0.7, 0.6, 0.5, 0.4, 0.9)


@pytest.fixture(scope="module")
def studio(comfy_nodes):
    return Studio(comfy_nodes, DIGITS.files, [(digit + 1) % 10 for digit in range(10)])


@pytest.fixture(scope="module")
def ways():
    found = methods.methods(DIGITS.weak, DIGITS.best, DIGITS.weakest, DIGITS.scales)
    return {way.name: way for way in found}


def inputs_of(way, **setting):
    return way.inputs(**{**way.settings()[0], **setting})


@pytest.fixture(scope="module")
def by_passes():
    return {way.name: way for way in budget_methods.by_passes(DIGITS)}


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("history", 1.0),
        ("classifier-free, a quarter of the steps, with history", 1.25),
        ("classifier-free, with history", 2.0),
        ("classifier-free, and a negative prompt", 3.0),
        ("weak: earlier, with history", 2.0),
    ],
)
def test_history_costs_nothing_and_another_push_its_pass(studio, by_passes, name, passes):
    assert studio.passes(inputs_of(by_passes[name])) == pytest.approx(passes, abs=0.01)


def test_every_way_for_the_same_passes_draws(studio, by_passes, monkeypatch):
    monkeypatch.setattr(studio_module, "CLASSES", 1)
    drawn = {name: studio.draw(inputs_of(way), 1, seed=5)[0] for name, way in by_passes.items()}
    alike = {
        name: {other for other, its in drawn.items() if torch.equal(its, image)}
        for name, image in drawn.items()
    }
    # Where a network has two blocks, one is left to be drawn; and nothing may have settled yet.
    may_be = [
        {"weakened: by skipping blocks", "weakened: by skipping a block, drawn at each step"},
        {"classifier-free", "classifier-free, until settled"},
    ]
    assert all(same == {name} or same in may_be for name, same in alike.items())


@pytest.mark.parametrize(
    ("name", "setting", "passes"),
    [
        ("no guidance", {}, 1.0),
        ("classifier-free", {}, 2.0),
        ("interval", {"during": (0.25, 0.5)}, 1.25),
        ("weak: earlier", {}, 2.0),
        ("weak: earlier, every 4 steps", {}, 1 + 1 / 4),
        ("weak and classifier-free", {}, 3.0),
        ("weakened: with low rank", {}, 2.0),
    ],
)
def test_passes_are_counted_by_work(studio, ways, name, setting, passes):
    assert studio.passes(inputs_of(ways[name], **setting)) == pytest.approx(passes, abs=0.01)


def test_smaller_model_costs_by_its_size(studio, ways):
    passes = studio.passes(inputs_of(ways["weak: smaller"]))
    work = [
        sum(p.numel() for p in each.model.diffusion_model.joint_blocks.parameters())
        for each in (studio.weak("smaller"), studio.main)
    ]
    assert passes - 1 == pytest.approx(work[0] / work[1], abs=0.05)


def test_every_way_draws(studio, ways, pack, monkeypatch):
    """Each through the nodes, from one and the same noise; no two of them draw the same."""
    network = pack.guiders.weaken.network.Network.of(studio.main)
    if not pack.guiders.weaken.attention.can_be_replaced(network):  # ComfyUI's oldest release
        ways = {name: way for name, way in ways.items() if name != "weakened: attention"}
    monkeypatch.setattr(studio_module, "CLASSES", 2)
    drawn = {}
    for name, way in ways.items():
        pictures_, labels = studio.draw(inputs_of(way), 4, seed=5)
        assert pictures_.shape == (4, 64, 64, 3)
        assert labels.tolist() == [0, 0, 1, 1]
        assert pictures_.isfinite().all()
        drawn[name] = pictures_
    names = list(drawn)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not torch.equal(drawn[one], drawn[other]), (one, other)


@torch.inference_mode()
def test_classifier_free_is_comfyuis_own(studio, ways, comfy_nodes):
    inputs = inputs_of(ways["classifier-free"], cfg=2.0)
    pictures_, _ = studio.draw(inputs, 10, seed=7)
    (latent,) = call(
        comfy_nodes["KSampler"],
        model=studio.main,
        seed=73,
        steps=STEPS,
        cfg=2.0,
        sampler_name="euler",
        scheduler="simple",
        positive=conditioning(3),
        negative=conditioning(EMPTY_CLASS),
        latent_image={"samples": torch.zeros(1, 16, 8, 8)},
    )
    torch.testing.assert_close(pictures_[3:4], studio.vae.decode(latent["samples"]))


@pytest.mark.parametrize("sigma", [0.2, 0.7, 1.0])
def test_coarse_latent_has_the_noise_it_is_said_to_have(sigma):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 16, 64, 64, generator=generator)
    data = torch.full_like(noise, 3.0)
    seen = []

    def network(x, t):
        seen.append((x, t))
        return x

    out = coarse._on_coarse_latent(
        network, (1 - sigma) * data + sigma * noise, torch.full((4,), sigma)
    )
    (x, t) = seen[0]
    assert out.shape == noise.shape and x.shape == (4, 16, 32, 32)
    assert x.std() == pytest.approx(float(t[0]), rel=0.01)
    assert x.mean() == pytest.approx(3.0 * (1 - float(t[0])), abs=0.02)


def test_ruler_knows_the_real_ones():
    pictures_, labels = DIGITS.real
    outcome = DIGITS.ruler.outcome(pictures_, labels)
    assert outcome.distance == pytest.approx(0, abs=1e-3)
    assert outcome.pixels == pytest.approx(0, abs=1e-3)
    assert outcome.coverage == outcome.precision == outcome.recall == 1
    assert outcome.right > 0.97
    assert 0 < DIGITS.ruler.halves()[1] < 0.05


def test_ruler_sees_what_is_missing():
    pictures_, labels = DIGITS.real
    few = labels < 5
    outcome = DIGITS.ruler.outcome(pictures_[few], labels[few])
    assert outcome.precision == 1
    assert outcome.recall < 0.7 and outcome.coverage < 0.7
    assert outcome.distance > 10 * DIGITS.ruler.halves()[0]


def test_no_class_is_taken_for_itself():
    others = DIGITS.ruler.taken_for(DIGITS.real[1])
    assert len(others) == 10
    assert all(other != digit for digit, other in enumerate(others))


def test_settings_are_all_combinations():
    way = Method("a", WEAK, lambda: None, {"x": (1, 2), "mode": ("p", "q")})
    assert [words(each) for each in way.settings()] == ["x 1, p", "x 1, q", "x 2, p", "x 2, q"]
    assert Method("a", WEAK, lambda: None).settings() == [{}]
    assert words({"weak_scale": 2.0, "during": (0.1, 0.35)}) == "weak scale 2, from 10% to 35%"
    assert words({"mode": "blur", "blocks": "1"}) == "blur, blocks 1"


class FakeStudio:
    """Draws its own scale, and counts how often."""

    def __init__(self):
        self.runs = []

    def draw(self, scale, count, seed):
        self.runs.append((scale, count, seed))
        return scale, seed

    def passes(self, scale):
        return 2.0


class FakeRuler:
    """Finds 2 to be the best scale on the choosing seed, and 3 on all others."""

    def outcome(self, scale, seed):
        best = 2.0 if seed == pictures.CHOOSING_SEED else 3.0
        return replace(OUTCOME, distance=abs(scale - best) + 0.01 * seed)

    def halves(self):
        return 0.1, 0.01


def test_setting_is_chosen_on_another_seed_than_reported(tmp_path):
    kind = SimpleNamespace(name="digits", ruler=FakeRuler(), count=60, fewer=40, real=[[0] * 55])
    way = Method("w", WEAK, lambda scale: scale, {"scale": (1.0, 2.0, 3.0)})

    def measured(studio):
        bench = pictures.Bench(kind, None, {"w": way}, studio, {})

        def make(records, runs):
            for run in runs:
                if run.name not in records:
                    records[run.name] = bench.figures(run)

        return pictures.measure(kind, Records(tmp_path / "r.json", {}), [way], make)

    studio = FakeStudio()
    report = measured(studio)
    (row,) = report.rows
    assert row.setting == {"scale": 2.0}
    assert row.values("distance") == pytest.approx([1.02, 1.03, 1.04])
    assert studio.runs == [
        *((scale, 40, 1) for scale in (1.0, 2.0, 3.0)),
        *((2.0, 60, seed) for seed in (2, 3, 4)),
    ]
    again = FakeStudio()
    assert measured(again) == report
    assert again.runs == []


def row(name, group, distance, passes=2.0, coverage=0.4):
    outcomes = [
        replace(OUTCOME, distance=distance * times, coverage=coverage) for times in (0.9, 1, 1.1)
    ]
    return Row(name, group, {"weak_scale": 2.0}, outcomes, passes, [({"weak_scale": 2.0}, 1.0)])


def report(weak=0.5, one=0.7, cheap=0.55, coverage=0.4):
    rows = [
        row("no guidance", REFERENCE, 2.0, 1.0),
        row("classifier-free", REFERENCE, 1.0),
        row("interval", REFERENCE, 0.8, 1.5),
        row("negative prompt", REFERENCE, 1.5),
        row("weak: earlier", WEAK, weak, coverage=coverage),
        row("weakened: tokens", ONE, one),
        row("weakened: tokens, late", ONE_SHAPED, one - 0.1),
        row("weak, every 4", CHEAP, cheap, 1.25),
        row("two", BOTH, 0.6, 3.0),
    ]
    return Report("digits", rows, (0.1, 0.01), 50, 60, 40)


def test_targets_are_ratios_of_means():
    assert [target.reached for target in pictures_report.targets(report())] == [True] * 7
    assert "0.50 " in pictures_report.targets(report())[0].came


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"weak": 0.62}, 0),
        ({"weak": 0.65, "cheap": 0.6}, 1),
        ({"coverage": 0.39}, 2),
        ({"one": 0.81}, 3),
        ({"one": 0.75}, 4),
        ({"cheap": 0.7}, 5),
    ],
)
def test_a_missed_target_is_told(change, missed):
    assert not pictures_report.targets(report(**change))[missed].reached


def test_section_has_a_table_for_each_group():
    text = pictures_report.section(report(), "results")
    assert text.count("| way |") == 6
    assert "0.60 of that of classifier-free, 0.75 of that of interval and 1.20 of that" in text
    assert "results/digits_plots.png" in text and "results/digits_sheet.jpg" in text
    assert "0.500 ± 0.050" in text
    assert "20.0 and 50.0 times" in text


def test_summary_has_the_plain_ways_of_all_kinds():
    skipping = row("weakened: by skipping blocks", ONE, 0.6, 1.5)
    low_rank = row("weakened: with low rank", ONE, 0.7)
    found = replace(report(), rows=[*report().rows, skipping, low_rank])
    lines = pictures_report.summary([found, found]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "no guidance",
        "classifier-free",
        "interval",
        "negative prompt",
        "weak: earlier",
        "two",
        "weakened: by skipping blocks",
        "weakened: with low rank",
    ]
    assert lines[-2].count("| 0.60 ± 0.06 | 0.40 ± 0.00 | 1.50 ") == 2


def test_frontier_leaves_out_what_is_beaten():
    assert [each.name for each in frontier(report().rows)] == [
        "no guidance",
        "weak, every 4",
        "weak: earlier",
    ]


def test_sheet_shows_the_best_of_each():
    assert [each.name for each in shown(report())][-3:] == [
        "weakened: tokens",
        "weak: earlier",
        "two",
    ]


def test_best_way_is_the_one_of_the_choosing_seed():
    promising = replace(row("weak: smaller", WEAK, 0.9), tried=[({"weak_scale": 2.0}, 0.5)])
    both = replace(report(), rows=[*report().rows, promising])
    assert both.best(WEAK) == promising


def test_verdicts_say_what_was_missed():
    table = quality.verdicts(pictures_report.targets(report(weak=0.62)))
    assert table.count("**no**") == 1
    assert table.count("| yes |") == 6


def budget_row(name, group, passes, promised, distances=()):
    outcomes = [replace(OUTCOME, distance=distance) for distance in distances]
    return Row(name, group, {}, outcomes, passes, [({}, promised)])


def budget_report(kind="emoji", history=0.9):
    return Report(
        kind,
        [
            budget_row("no guidance", "known", 1.0, 2.1, (2.0, 2.2)),
            budget_row("history", "new", 1.0, 2.1 * history, (2.0 * history, 2.2 * history)),
            budget_row("history, as the node comes", "new", 1.0, 2.0, (2.0, 2.1)),
            budget_row("classifier-free", "known", 2.0, 1.5, (1.5, 1.5)),
            budget_row("classifier-free, with history", "new", 2.0, 1.2, (1.2, 1.2)),
            budget_row("a weak model", "known", 1.3, 1.6),
            budget_row("two weak models", "new", 3.0, 1.3),
        ],
        (1.0, 1.0),
        600,
        400,
        200,
    )


def test_two_best_ways_of_each_number_of_passes_are_reported_and_what_they_are_compared_to():
    rows = budget_report().rows
    assert plans.worth_reporting(rows) == {row.name for row in rows}
    dear = [*rows, budget_row("dear and bad", "new", 2.9, 1.9)]
    assert "dear and bad" not in plans.worth_reporting(dear)
    assert [row.name for row in plans.affordable(rows, 1.5)] == [
        "a weak model",
        "history",
        "history, as the node comes",
        "no guidance",
    ]


def test_page_of_passes_has_the_best_ways_the_targets_and_history_by_sampler():
    found = budget_report()
    names = [
        plans.history_plan(sampler, steps)
        for sampler in plans.SAMPLERS
        for steps in plans.STEP_COUNTS
    ]
    text = passes_report.page([found], {"emoji": dict.fromkeys(names, found)}, "Words.")
    assert "| 1 | emoji | history | – | 1.890 ± 0.127 | no guidance: 2.100 ± 0.141 |" in text
    assert "| 1.25 | emoji | history |" in text
    assert "| 1.5 | emoji | a weak model | – | 1.600 (seed 1) | the same |" in text
    assert "| emoji: history over no guidance, at most 0.92 | 0.90 " in text
    assert "| euler | 8 | 2.10 | 1.89 | 0.90 | 1.50 | 1.20 | 0.80 |" in text
    assert "Words." in text


@pytest.mark.parametrize(("history", "reached"), [(0.9, True), (0.93, False)])
def test_targets_of_history(history, reached):
    first, *_ = passes_report.targets(budget_report(history=history))
    assert first.reached is reached


def test_ways_that_are_not_reported_are_only_tried(tmp_path):
    """And the others are measured with the plan's own number of images."""
    made = []

    def make(records, runs):
        made.extend(runs)
        for run in runs:
            distance = {"good": 1.0, "bad": 2.0}[run.way]
            records[run.name] = (
                {"passes": 1.0} if run.seed is None else vars(replace(OUTCOME, distance=distance))
            )

    ways = [Method(name, "", lambda: None) for name in ("good", "bad")]
    kind = SimpleNamespace(
        name="digits", count=600, fewer=400, real=([0] * 600,), ruler=DIGITS.ruler
    )
    plan = plans.Plan("", "euler", 4, list, 20, 10, lambda rows: {"good"})
    records = Records(tmp_path / "records.json", {})
    found = pictures.measure(kind, records, ways, make, plan)
    assert [len(found.row(name).outcomes) for name in ("good", "bad")] == [3, 0]
    assert sorted({run.count for run in made if run.seed is not None}) == [10, 20]
    assert not any(run.way == "bad" and run.count == 20 for run in made)
