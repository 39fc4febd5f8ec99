"""The bench measures what it says; how fast anything is, it alone tells."""

import math
import mmap
import sys

import pytest
import torch

from bench import cases, passes, speed
from bench.cases import CASES, Bench, Report
from bench.figures import MIB, Figure, Target, table
from bench.memory import Memory, forget_peak, peak_memory, tensor_memory
from comfyui.running import Run, core_guider
from support.small_models import CONTEXT_WIDTH, TEXT_TOKENS, unet

CHANGED_WEIGHTS = ("base", "half-lora", "weight-functions", "checkpoint")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def bench(comfy_nodes):
    return Bench(
        comfy_nodes,
        make_unet=unet,
        shape=(1, 4, 8, 8),
        size=8,
        context=(TEXT_TOKENS, CONTEXT_WIDTH),
        blocks=("output 1-2", ("output_blocks.1", "output_blocks.2")),
        steps=3,
        repeats=2,
    )


def figure(report, name):
    (found,) = (each for each in report.figures if each.name == name)
    return found


def test_cases_are_those_of_the_command_line():
    assert tuple(CASES) == speed.KEYS


@pytest.mark.parametrize("key", CASES)
def test_case(key, bench):
    report = CASES[key].measure(bench)
    assert all(math.isfinite(each.value) and each.samples > 0 for each in report.figures)
    if key in ("arithmetic", "probe"):
        return
    over_passes = figure(report, "… over its own model passes")
    assert over_passes.extremes[0] >= 1
    alone = 1 if key in ("core", "history", "off", "outside") else 2
    assert figure(report, "model passes in a step").value == alone or key == "weak-prompt"
    if key in CHANGED_WEIGHTS:
        assert figure(report, "weights that differ").value > 0
        assert figure(report, "weights patched in the second run").met


def test_case_off_compares_with_core(bench):
    report = CASES["off"].measure(bench)
    assert figure(report, "runs with other passes than core's").met
    assert figure(report, "runs with other bits than core's").met


def test_case_outside_compares_with_no_guidance(bench):
    report = CASES["outside"].measure(bench)
    assert figure(report, "runs with other passes than with no guidance").met
    assert figure(report, "runs with other bits than with no guidance").met


def test_arithmetic_is_what_is_left_of_a_step(bench):
    """Every prediction that the shapes ask for is made, and counted as a pass."""
    report = CASES["arithmetic"].measure(bench)
    beside, one_pass = (
        figure(report, name) for name in ("all of a step but its passes", "one pass of the model")
    )
    assert beside.value > 0
    over = figure(report, "… over one pass")
    assert over.value == pytest.approx(beside.value / 1000 / one_pass.value)


def test_probe_is_compared_with_the_same_run_without(bench):
    report = CASES["probe"].measure(bench)
    plain, watching = (
        figure(report, name)
        for name in ("a step but its passes", "a step but its passes, recorded and shown")
    )
    over = figure(report, "recording and showing, over one pass")
    one_pass = figure(report, "one pass of the model").value
    assert over.value == pytest.approx((watching.value - plain.value) / 1000 / one_pass)
    assert plain.samples == watching.samples == bench.repeats * (max(3, bench.steps // 2) - 1)


def test_skipped_layers_are_timed(bench):
    report = CASES["skip-more"].measure(bench)
    share = figure(report, "share of the main pass in the skipped layers").value
    kept = figure(report, "… that the weak pass keeps, to fit sizes").value
    assert 0 < kept < share < 1


def test_passes_of_both_models_are_told_apart(bench):
    other = unet(5)
    weak = passes.marked(other)
    measured = passes.measure(bench.run, bench.guider(weak_model=weak), [bench.main, weak])
    assert measured.rows == [[1, 1]] * bench.steps
    for step in measured.steps:
        main, weak_pass = step.main_and_weak
        assert not main.weak
        assert weak_pass.weak
        assert main.seconds + weak_pass.seconds <= step.seconds
    assert 0 < measured.set_up <= measured.first.seconds


def test_prompts_in_one_batch_are_one_pass(bench):
    guider = core_guider(bench.main, bench.positive, bench.negative, 4.0)
    measured = passes.measure(bench.run, guider, [bench.main])
    assert measured.rows == [[2]] * bench.steps


def test_patched_weights_are_counted(bench):
    guider = core_guider(bench.main, bench.positive)
    weights = len(cases.attention_keys(bench.base))
    counts = [passes.measure(bench.run, guider, [bench.main]).patched for _ in range(2)]
    assert counts == [weights, 0]


def test_nothing_is_left_on_what_was_measured(bench):
    expected = Run.of(bench.base, bench.shape, 2).sample(core_guider(bench.main, bench.positive))
    CASES["skip"].measure(bench)
    assert "_apply_model" not in vars(bench.main.model)
    layers = bench.main.model.diffusion_model.modules()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    again = Run.of(bench.base, bench.shape, 2).sample(core_guider(bench.main, bench.positive))
    assert torch.equal(again, expected)


def test_tensor_memory_counts_memory_once():
    before = tensor_memory()
    tensor = torch.zeros(2**20)
    views = [tensor.view(2, -1), tensor[5:]]
    assert tensor_memory() - before == tensor.nbytes
    del tensor, views
    assert tensor_memory() == before


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target("at most", 1.05), 1.05, True),
        (Target("at most", 1.05), 1.06, False),
        (Target("exactly", 2), 2, True),
        (Target("exactly", 2), 1, False),
        (None, 7, None),
    ],
)
def test_target(target, value, met):
    assert Figure("", value, "", target).met is met


def test_figures_survive_the_way_between_processes():
    figure = Figure.of("some", [1.0, 2.0, 4.0], "x", Target("at most", 3))
    assert (figure.value, figure.extremes, figure.samples) == (2.0, (1.0, 4.0), 3)
    assert Figure.from_json(figure.as_json()).row() == figure.row()


def test_table_says_what_is_missed():
    figures = [Figure("a", 1.5, "x", Target("at most", 1)), Figure("b", 3)]
    header, _, title, first, second = table([("Title", figures)]).splitlines()
    assert "target" in header
    assert title == "Title"
    assert first.split() == ["a", "1.500", "x", "at", "most", "1", "MISSED"]
    assert second.split() == ["b", "3"]


def test_memory_is_what_core_does_not_need():
    def memory(peak, tensors):
        return Memory(round(peak * MIB), round(tensors * MIB))

    def figures(used, differing):
        report = Report()
        report.add_memory(memory(100, 50), used, differing)
        return [(each.value, each.met) for each in report.figures]

    assert figures(memory(104, 50.5), 0) == [(4, None), (0.5, True)]
    assert figures(memory(104, 52), 0) == [(4, None), (2, False)]
    assert figures(memory(104, 52), None) == [(4, None)]
    assert figures(memory(122, 70), 20 * MIB) == [(22, None), (20, None), (1.1, True), (20, None)]
    assert figures(memory(123, 70), 20 * MIB)[2][1] is False


def use_for_a_moment(size):
    """Some memory straight from the system: what tensors need may be left over from others."""
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="no way to forget a peak")
def test_peak_is_forgotten():
    use_for_a_moment(2**27)
    before = peak_memory()
    forget_peak()
    assert peak_memory() < before
    low = peak_memory()
    use_for_a_moment(2**27)
    assert peak_memory() - low >= 0.9 * 2**27
