"""The comparison of ways to push away measures what it says; which is better, it alone tells."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch

from bench import calibrated, negative
from bench.calibrated import Calibration, Reading
from bench.drawing import Drawing
from bench.frechet import frechet_distance, real_features
from bench.negative import DYNAMIC, NEGATIVE_PROMPT, NO_PUSH, SAFE_LATENT, Outcome
from bench.records import Records
from digits.classifier import read_digits


@pytest.fixture(scope="module")
def drawing(comfy_nodes):
    return Drawing(comfy_nodes, 10)


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "figures.json", {"pictures": 10})


def features(seed, n=200, d=8):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + generator.normal(size=d)


def test_frechet_distance_by_a_matrix_root_of_scipy():
    a, b = features(0), features(1)
    covariances = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    difference = a.mean(0) - b.mean(0)
    expected = difference @ difference + np.trace(sum(covariances) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_of_moved_and_stretched_features():
    """Closed form: the way, and for each direction the difference of the deviations."""
    a = features(2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, a + 2.0) == pytest.approx(4.0 * a.shape[1])
    spread = np.trace(np.cov(a.T))
    centred = a - a.mean(0)
    assert frechet_distance(centred, 3.0 * centred) == pytest.approx(4.0 * spread)


def test_frechet_distance_where_a_feature_is_constant():
    a = features(3)
    a[:, 0] = 0.5
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_real_digits_without_one():
    everything = real_features()
    assert len(everything) == 1797
    assert 0 < len(everything) - len(real_features(without=3)) < 200


def test_divergence_to_uniform():
    assert negative.divergence_to_uniform(np.full(9, 1 / 9)) == pytest.approx(0)
    assert negative.divergence_to_uniform(np.eye(9)[0]) == pytest.approx(math.log(9))


def test_outcome_counts_what_the_classifier_reads():
    images = drawn_digits()
    read = read_digits(images)
    outcome = negative.outcome(images, 3)
    assert outcome.remaining == (read == 3).mean() > 0
    assert outcome.imbalance > 0 and outcome.distance > 0


def drawn_digits():
    from digits.pictures import digit_split, draw

    images = digit_split().held_out_images[:100]
    return draw(images, torch.Generator().manual_seed(0)).movedim(1, -1)


def test_point_of_a_sweep_lies_between_the_scales_around_it():
    curve = [Outcome(0.1, 0.0, 1.0), Outcome(0.04, 1.0, 2.0), Outcome(0.01, 3.0, 4.0)]
    assert negative.at_remaining(curve, 0.02) == Outcome(0.02, pytest.approx(2.0), pytest.approx(3))
    assert negative.at_remaining(curve, 0.01) == Outcome(0.01, pytest.approx(3.0), pytest.approx(4))
    assert negative.at_remaining(curve, 0.001) is None


def test_verdict_wants_both():
    prompt = Outcome(0.02, 0.4, 0.4)
    assert negative.verdict(Outcome(0.02, 0.2, 0.3), prompt).startswith("target met")
    for other in (Outcome(0.02, 0.5, 0.3), Outcome(0.02, 0.2, 0.5), None):
        assert negative.verdict(other, prompt).startswith("target not met")


def test_safe_latent_diffusion_pushes_by_its_rule(pack):
    """On noise predictions, as the paper writes it, from denoised ones of a flow model."""
    from bench.safe_latent import SafeLatent

    generator = torch.Generator().manual_seed(0)
    x, C, N = (torch.randn(2, 4, 5, 5, generator=generator) for _ in range(3))
    t = torch.tensor([0.3, 0.9])
    spread = t.view(-1, 1, 1, 1)
    noise_C, noise_N = ((x - (1 - spread) * each) / spread for each in (C, N))
    weight = (7.0 * (noise_C - noise_N).abs()).clamp(max=1)
    weight[noise_C - noise_N >= 0.2] = 0
    guided = noise_C - 2.0 * weight * (noise_N - noise_C)
    expected = (x - spread * guided) / (1 - spread)
    noise = SimpleNamespace(is_flow=True)
    step = SimpleNamespace(sigma=t, noise=noise)
    delta = SafeLatent(safety=7.0, threshold=0.2).start(noise)(C - N, step, 2.0)
    torch.testing.assert_close(C + 2.0 * delta, expected, rtol=1e-4, atol=1e-4)


def test_each_way_has_its_own_push(drawing):
    assert negative.pushes(NEGATIVE_PROMPT, drawing) == {}
    assert negative.pushes(SAFE_LATENT, drawing).keys() == {"negative_shape"}
    (schedule,) = negative.pushes(DYNAMIC, drawing)["negative_schedule"]
    assert schedule.prior == 0.1


def test_removal_is_measured_and_reported(drawing, records, monkeypatch, capsys, tmp_path):
    """A short sweep; the second time everything is there already."""
    monkeypatch.setattr(negative, "SCALES", {NO_PUSH: (1.0,), NEGATIVE_PROMPT: (3.0,)})
    outcomes = negative.measure(drawing, records, [3])
    assert outcomes[NEGATIVE_PROMPT, 3.0][0].distance > outcomes[NO_PUSH, 1.0][0].distance
    assert "1/2 remove 3, no push, 1" in capsys.readouterr().out
    again = negative.measure(drawing, Records(records.path, {"pictures": 10}), [3])
    assert again == outcomes and capsys.readouterr().out == ""


def test_report_has_every_scale(tmp_path):
    from bench.plots import plot_removal

    outcomes = {
        (way, scale): [Outcome(0.1 / scale**3, 0.1 * scale, 0.2 * scale)]
        for way, scales in negative.SCALES.items()
        for scale in scales
    }
    text = negative.report(outcomes)
    table, _, _ = text.partition("With 2% remaining")
    assert sum(table.count(f"{way:28}") for way in negative.SCALES) == len(outcomes)
    assert "target met" in text or "target not met" in text
    plot_removal(outcomes, tmp_path / "removal.png")
    assert (tmp_path / "removal.png").stat().st_size > 10_000


def test_records_are_kept_for_the_same_settings_only(tmp_path):
    path = tmp_path / "deep" / "figures.json"
    Records(path, {"pictures": 1}).get("one", lambda: {"value": 1})
    assert json.loads(path.read_text())["figures"] == {"one": {"value": 1}}
    assert Records(path, {"pictures": 1}).get("one", lambda: {"value": 2}) == {"value": 1}
    assert Records(path, {"pictures": 2}).get("one", lambda: {"value": 2}) == {"value": 2}
    afresh = Records(path, {"pictures": 2}, afresh=True)
    assert afresh.get("one", lambda: {"value": 3}) == {"value": 3}


def calibration(distances):
    """One made of the distance at each strength, by bad version and kind."""
    guided = {
        (bad_version, kind, strength): Reading(0.9, distance, [(1.0, strength), (0.5, strength)])
        for (bad_version, kind), row in distances.items()
        for strength, distance in zip(calibrated.STRENGTHS[kind], row, strict=True)
    }
    return Calibration(Reading(0.9, 1.0, []), guided)


def everywhere(scale_rows, share_row):
    rows = zip(calibrated.BAD_VERSIONS, scale_rows, strict=True)
    return calibration(
        {
            key: row
            for name, scales in rows
            for key, row in (((name, "scale less 1"), scales), ((name, "share ρ"), share_row))
        }
    )


def test_spread_of_the_strengths_that_double_the_distance():
    """Scales that double it at 0.25 and at 1, shares that all do so at 0.12."""
    early, late = [1.2, 2.0, 3.0, 4.0, 5.0], [1.1, 1.2, 1.5, 2.0, 5.0]
    found = everywhere([early, late, late, late, late], [1.1, 1.5, 2.0, 3.0, 4.0])
    assert found.strength_at(calibrated.BAD_VERSIONS[0], "scale less 1") == pytest.approx(0.25)
    assert found.spread("scale less 1") == pytest.approx(4)
    assert found.spread("share ρ") == pytest.approx(1)
    assert "target met" in calibrated.report(found)


def test_strength_that_is_not_reached(tmp_path):
    from bench.plots import plot_calibration

    never = [1.0, 1.1, 1.2, 1.3, 1.4]
    found = everywhere([never] * 5, [1.1, 1.5, 2.0, 3.0, 4.0])
    assert found.spread("scale less 1") is None
    assert "not reached" in calibrated.report(found) and "not met" in calibrated.report(found)
    plot_calibration(found, tmp_path / "calibrated.png")
    assert (tmp_path / "calibrated.png").stat().st_size > 10_000


@pytest.mark.parametrize("bad_version", ["smaller checkpoint", "prompt of the next digit"])
def test_share_chooses_a_scale_at_each_step(bad_version, drawing, monkeypatch):
    from tiny import sampling

    assert sampling.STEPS == 20
    monkeypatch.setattr(sampling, "STEPS", 3)
    figures = calibrated._push(drawing, bad_version, "share ρ", 0.1)
    assert len(figures["trace"]) == 3
    assert all(0 < factor <= 100 for _, factor in figures["trace"])
    harder = calibrated._push(drawing, bad_version, "share ρ", 0.2)
    ratios = [b / a for (_, a), (_, b) in zip(figures["trace"], harder["trace"], strict=True)]
    assert ratios[0] == pytest.approx(2.0, rel=1e-4)
