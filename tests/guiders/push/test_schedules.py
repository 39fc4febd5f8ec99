"""Schedules alone: what they are at each sigma, and what those that look at the run make of it."""

import math
from itertools import pairwise

import pytest
import torch


@pytest.fixture(scope="module")
def schedules(pack):
    return pack.guiders.push.schedules


@pytest.fixture(scope="module")
def Noise(pack):
    return pack.guiders.push.noise.Noise


RUN = (10.0, 7.5, 5.0, 2.5, 1.0, 0.0)


@pytest.fixture(scope="module")
def noise(Noise):
    """Of which the share that is done is 1 − σ/10."""
    return Noise(False, lambda percent: 10 * (1 - percent), deviation=0.8, sigmas=RUN)


def as_comfyui_has_it(sigma):
    """In 32 bits."""
    return float(torch.tensor(sigma, dtype=torch.float32))


# Percent and sigma


def test_percent_is_found_once_for_each_sigma(Noise):
    asked = []

    def percent_to_sigma(percent):
        asked.append(percent)
        return 10 * (1 - percent)

    noise = Noise(False, percent_to_sigma)
    assert noise.percent_of(4.0) == pytest.approx(0.6)
    count = len(asked)
    assert noise.percent_of(4.0) == pytest.approx(0.6)
    assert len(asked) == count
    assert noise.percent_of(2.0) == pytest.approx(0.8)


# Interval


def just_above(sigma):
    return sigma * (1 + 1e-4)


def just_below(sigma):
    return sigma * (1 - 1e-4)


@pytest.mark.parametrize("by_sigma", [False, True])
def test_interval_has_its_start_and_not_its_end(by_sigma, schedules, noise):
    """Half open, so that two intervals that meet have no step in common."""
    ends = (8.0, 2.0) if by_sigma else (0.2, 0.8)
    interval = schedules.Interval(*ends, by_sigma)
    on = [just_above(2.0), 5.0, just_below(8.0), 8.0, as_comfyui_has_it(8.0)]
    off = [1e9, 10.0, just_above(8.0), 2.0, as_comfyui_has_it(2.0), just_below(2.0), 0.1]
    assert [interval.factor(sigma, noise) for sigma in on] == [1.0] * len(on)
    assert [interval.factor(sigma, noise) for sigma in off] == [0.0] * len(off)


@pytest.mark.parametrize("sigma", [5.4, 0.28, 14.614643, 0.7, 0.1])
def test_interval_knows_a_typed_sigma_in_32_bits(sigma, schedules, noise):
    step = as_comfyui_has_it(sigma)
    assert schedules.Interval(sigma, 0.0, True).factor(step, noise) == 1.0
    assert schedules.Interval(100.0, sigma, True).factor(step, noise) == 0.0


# Ramp

LOW, HIGH, START, END, POWER = 0.25, 1.75, 0.2, 0.6, 3.0

# Share of the way, and of the rise.
RISES = {
    ("rising", "linear"): [(0, 0), (0.25, 0.25), (0.5, 0.5), (1, 1)],
    ("falling", "linear"): [(0, 1), (0.25, 0.75), (0.5, 0.5), (1, 0)],
    ("peak", "linear"): [(0, 0), (0.25, 0.5), (0.5, 1), (0.75, 0.5), (1, 0)],
    ("rising", "cosine"): [(0, 0), (1 / 3, 0.25), (0.5, 0.5), (2 / 3, 0.75), (1, 1)],
    ("falling", "cosine"): [(0, 1), (1 / 3, 0.75), (0.5, 0.5), (1, 0)],
    ("peak", "cosine"): [(0, 0), (1 / 6, 0.25), (0.5, 1), (5 / 6, 0.25), (1, 0)],
    ("rising", "power"): [(0, 0), (0.5, 0.125), (0.75, 0.421875), (1, 1)],
    ("falling", "power"): [(0, 1), (0.25, 0.421875), (0.5, 0.125), (1, 0)],
    ("peak", "power"): [(0, 0), (0.25, 0.125), (0.5, 1), (0.75, 0.125), (1, 0)],
}


@pytest.mark.parametrize(("direction", "curve"), RISES)
def test_ramp(direction, curve, schedules, noise):
    ramp = schedules.Ramp(direction, curve, LOW, HIGH, START, END, POWER)
    for share, rise in RISES[direction, curve]:
        sigma = 10 * (1 - (START + share * (END - START)))
        assert ramp.factor(sigma, noise) == pytest.approx(LOW + rise * (HIGH - LOW), abs=1e-6)
    (_, first), *_, (_, last) = RISES[direction, curve]
    for sigma, rise in ((1e9, first), (9.0, first), (3.0, last), (0.0, last)):
        assert ramp.factor(sigma, noise) == pytest.approx(LOW + rise * (HIGH - LOW), abs=1e-6)


def test_all_ramps_are_here(schedules):
    offered = {(d, c) for d in schedules.RAMP_DIRECTIONS for c in schedules.RAMP_CURVES}
    assert offered == set(RISES)


# Curve

# By percent; as sigma of this noise, 8, 5, 4.
POINTS = ((0.2, 1.0), (0.5, 3.0), (0.6, -1.0))

# Positions, and what each interpolation makes there.
EXPECTED = {
    "linear": [(0.275, 1.5), (0.35, 2.0), (0.44, 2.6), (0.55, 1.0), (0.575, 0.0)],
    "smooth": [(0.275, 1.3125), (0.35, 2.0), (0.44, 2.792), (0.55, 1.0), (0.575, -0.375)],
    "steps": [(0.21, 1.0), (0.35, 1.0), (0.49, 1.0), (0.51, 3.0), (0.59, 3.0), (0.61, -1.0)],
}
EVERYWHERE = [(0.0, 1.0), (0.1, 1.0), (0.7, -1.0), (1.0, -1.0)]


def curve_of(schedules, interpolation, by_sigma, points=POINTS):
    if by_sigma:
        points = tuple((10 * (1 - percent), factor) for percent, factor in points)
    return schedules.Curve(points, by_sigma, interpolation)


@pytest.mark.parametrize("by_sigma", [False, True])
@pytest.mark.parametrize("interpolation", EXPECTED)
def test_curve(interpolation, by_sigma, schedules, noise):
    curve = curve_of(schedules, interpolation, by_sigma)
    for percent, factor in EXPECTED[interpolation] + EVERYWHERE:
        assert curve.factor(10 * (1 - percent), noise) == pytest.approx(factor, abs=1e-6), percent


def test_all_interpolations_are_here(schedules):
    assert set(schedules.INTERPOLATIONS) == set(EXPECTED)


@pytest.mark.parametrize("by_sigma", [False, True])
@pytest.mark.parametrize("interpolation", ["linear", "smooth"])
def test_curve_goes_through_its_points(interpolation, by_sigma, schedules, noise):
    curve = curve_of(schedules, interpolation, by_sigma)
    for percent, factor in POINTS:
        sigma = as_comfyui_has_it(10 * (1 - percent))
        assert curve.factor(sigma, noise) == pytest.approx(factor, abs=1e-5)


@pytest.mark.parametrize(("position", "by_sigma"), [(0.2, False), (0.5, False), (5.4, True)])
def test_steps_of_a_curve_begin_at_the_step_they_name(position, by_sigma, schedules, noise):
    """As intervals do."""
    before = 100.0 if by_sigma else 0.0
    curve = schedules.Curve(((before, 1.0), (position, 3.0)), by_sigma, "steps")
    sigma = position if by_sigma else noise.percent_to_sigma(position)
    assert curve.factor(as_comfyui_has_it(sigma), noise) == 3.0


@pytest.mark.parametrize("by_sigma", [False, True])
def test_order_of_points_does_not_matter(by_sigma, schedules, noise):
    curves = [curve_of(schedules, "linear", by_sigma, points) for points in (POINTS, POINTS[::-1])]
    for sigma in (9.0, 7.1, 6.0, 4.2, 1.0):
        one, other = (curve.factor(sigma, noise) for curve in curves)
        assert one == other


@pytest.mark.parametrize("by_sigma", [False, True])
@pytest.mark.parametrize("interpolation", EXPECTED)
def test_curve_of_one_point_is_constant(interpolation, by_sigma, schedules, noise):
    curve = curve_of(schedules, interpolation, by_sigma, ((0.4, 0.7),))
    assert [curve.factor(sigma, noise) for sigma in (1e9, 10.0, 6.0, 0.1)] == [0.7] * 4


# Chains


@pytest.fixture
def step_at(pack):
    """A step of a run, from predictions."""

    def step_at(noise, sigma, x, C, R):
        return pack.guiders.push.call.Step(
            noise=noise,
            x=x,
            sigma=x.new_full((len(x),), sigma),
            C=C,
            R=R,
            difference=C - R,
            other=lambda: pytest.fail("no schedule asks for the other push"),
            predict=lambda conditioning: pytest.fail("no schedule asks for a prediction"),
            measure_level=lambda: sigma,
        )

    return step_at


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def any_step(step_at, noise, sigma):
    return step_at(noise, sigma, *random(3, 2, 4, 3, 5))


def test_no_schedule_leaves_the_strength(schedules, noise, step_at):
    running = schedules.RunningSchedules([], noise)
    assert not running.may_be_off
    assert running.fixed_factor(5.0) == 1.0
    assert running.at(2.5, any_step(step_at, noise, 5.0)) == 2.5


def test_factors_of_a_chain_multiply(schedules, noise, step_at):
    chain = [
        schedules.Interval(8.0, 2.0, True),
        schedules.Curve(((6.0, 0.5), (5.0, 3.0)), True, "linear"),
        schedules.Ramp("rising", "linear", 0.0, 2.0, 0.0, 1.0, 1.0),
    ]
    running = schedules.RunningSchedules(chain, noise)
    assert running.may_be_off
    for sigma, expected in ((5.0, 3.0), (6.0, 0.4), (5.5, 1.575), (8.0, 0.2), (9.0, 0), (2.0, 0)):
        assert running.fixed_factor(sigma) == pytest.approx(expected)
        strength = running.at(2.5, any_step(step_at, noise, sigma))
        assert strength == pytest.approx(2.5 * expected)


def test_fixed_and_live_factors_multiply(schedules, noise, step_at):
    dynamic = schedules.DynamicNegative(0.2, 0.0, False, 0.0, 1e-6, 0.8)
    ramp = schedules.Ramp("rising", "linear", 0.0, 2.0, 0.0, 1.0, 1.0)
    running = schedules.RunningSchedules([dynamic, ramp], noise)
    assert running.may_be_off and not schedules.RunningSchedules([dynamic], noise).may_be_off
    assert running.fixed_factor(7.5) == pytest.approx(0.5)
    # 0.2/(1 − 0.2) of 3 − 1, half of it.
    actual = running.at(2.0, any_step(step_at, noise, 7.5))
    torch.testing.assert_close(actual, torch.full((2,), 0.25, dtype=torch.float64))


# Distance-calibrated scale


def expected_push(share, cap, deviation, sigma, difference):
    """2·ρ·d of the design: how long each sample's push is."""
    lengths = difference.flatten(1).norm(dim=1)
    distance = math.sqrt(difference[0].numel()) * sigma * deviation / math.hypot(sigma, deviation)
    return torch.minimum(torch.full_like(lengths, share * distance), cap * lengths)


@pytest.mark.parametrize("sigma", [0.1, 2.5, 10.0])
def test_push_is_a_share_of_the_distance(sigma, schedules, noise, step_at):
    x, C, R = random(3, 3, 4, 6, 5)
    # The last difference is so short that the cap holds.
    R = C + torch.tensor([1.0, 0.1, 1e-4], dtype=torch.float64).view(-1, 1, 1, 1) * R
    running = schedules.DistanceCalibrated(0.1, 50.0, 0.0).start(noise)
    factor = running(step_at(noise, sigma, x, C, R))
    expected = expected_push(0.1, 50.0, noise.deviation, sigma, C - R)
    torch.testing.assert_close(factor * (C - R).flatten(1).norm(dim=1), expected)
    assert factor[2] == 50.0 and factor[0] < 50.0


def test_distance_of_another_deviation(schedules, noise, step_at):
    x, C, R = random(3, 3, 4, 6, 5)
    running = schedules.DistanceCalibrated(0.1, 1e9, 2.3).start(noise)
    factor = running(step_at(noise, 2.5, x, C, R))
    expected = expected_push(0.1, 1e9, 2.3, 2.5, C - R)
    torch.testing.assert_close(factor * (C - R).flatten(1).norm(dim=1), expected)


@pytest.mark.parametrize("time", [1e-3, 0.5, 1.0])
def test_distance_of_a_flow_model(time, schedules, Noise, step_at):
    flow = Noise(True, lambda percent: 1 - percent, deviation=0.8)
    x, C, R = random(3, 2, 4, 6, 5)
    running = schedules.DistanceCalibrated(0.1, 1e9, 0.0).start(flow)
    factor = running(step_at(flow, time, x, C, R))
    sigma = time / (1 - time) if time < 1 else 1e12
    expected = expected_push(0.1, 1e9, 0.8, sigma, C - R)
    torch.testing.assert_close(factor * (C - R).flatten(1).norm(dim=1), expected)


@pytest.mark.parametrize(("strength", "sign"), [(2.0, 1), (99.0, 1), (-0.5, -1), (-8.0, -1)])
def test_distance_takes_over_the_strength_but_for_its_sign(
    strength, sign, schedules, noise, step_at
):
    step = any_step(step_at, noise, 5.0)
    calibrated = schedules.DistanceCalibrated(0.1, 9.0, 0.0)
    factor = calibrated.start(noise)(step)
    actual = schedules.RunningSchedules([calibrated], noise).at(strength, step)
    torch.testing.assert_close(actual, sign * factor)
    halved = [schedules.Curve(((1.0, 0.5),), True, "linear"), calibrated]
    actual = schedules.RunningSchedules(halved, noise).at(strength, step)
    torch.testing.assert_close(actual, sign * 0.5 * factor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_distance_of_no_difference_is_capped(dtype, pack, schedules, noise, step_at):
    x, C = random(2, 2, 4, 6, 5).to(dtype)
    running = schedules.DistanceCalibrated(0.1, 50.0, 0.0).start(noise)
    factor = running(step_at(noise, 5.0, x, C, C))
    assert (factor == 50.0).all()
    assert torch.equal(pack.guiders.push.formulas.add_push(C, C - C, factor), C)


@pytest.mark.parametrize("live", ["distance", "dynamic"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_live_factors_are_finite_in_any_precision(dtype, live, schedules, noise, step_at):
    schedule = {
        "distance": schedules.DistanceCalibrated(0.1, 50.0, 0.0),
        "dynamic": schedules.DynamicNegative(0.2, 1.0, False, 2e-4, 1e-3, 0.8),
    }[live]
    for size in (0.0, 1e-6, 1.0, 1e3):
        running = schedule.start(noise)
        for i, sigma in enumerate(RUN[:-1]):
            x, C, R = random(3, 2, 4, 6, 5, seed=i).to(dtype)
            factor = running(step_at(noise, sigma, x, C, (C + size * R)))
            least, most = schedule.range()
            assert factor.shape == (2,) and factor.isfinite().all()
            assert (factor >= least * 0.99).all() and (factor <= most * 1.01).all()


# Dynamic negative guidance

PRIOR, TEMPERATURE, OFFSET, FLOOR, CEILING = 0.05, 0.2, 2e-3, 1e-3, 0.8


@pytest.fixture
def dynamic(schedules):
    def dynamic(**others):
        settings = {
            "prior": PRIOR,
            "temperature": TEMPERATURE,
            "per_dimension": False,
            "offset": OFFSET,
            "floor": FLOOR,
            "ceiling": CEILING,
        }
        return schedules.DynamicNegative(**settings | others)

    return dynamic


def states(calls=RUN[:-1], batch=3):
    """Latent and predictions at each call; samples come near the negative prompt, or do not."""
    visited = []
    for i, sigma in enumerate(calls):
        noise, C, N = random(3, batch, 2, 3, 4, seed=i)
        towards = torch.linspace(-1, 2, batch, dtype=torch.float64).view(-1, 1, 1, 1)
        N = C + 0.3 * N
        visited.append((sigma, C + towards * (N - C) + 0.5 * sigma * noise, C, N))
    return visited


def factors(running, noise, step_at, visited):
    return [running(step_at(noise, *each)) for each in visited]


def literal(visited, temperature=TEMPERATURE, offset=OFFSET):
    """2410.14398, algorithm 2, with the posterior of each sample, at falling noise levels."""
    posterior = torch.full((len(visited[0][1]),), PRIOR, dtype=torch.float64)
    out = [posterior / (1 - posterior)]
    for (sigma, x, C, N), (after, x_after, *_) in pairwise(visited):
        keep = after**2 / sigma**2
        variance = after**2 * (sigma**2 - after**2) / sigma**2
        to_N, to_C = ((x_after - (D + keep * (x - D))).pow(2).flatten(1).sum(1) for D in (N, C))
        change = ((-temperature * (to_N - to_C) + offset) / (2 * variance)).exp()
        posterior = (posterior * change).clamp(FLOOR, CEILING)
        out.append(posterior / (1 - posterior))
    return out


def test_dynamic_negative_is_the_paper_s(dynamic, noise, step_at):
    visited = states()
    actual = factors(dynamic().start(noise), noise, step_at, visited)
    assert torch.equal(actual[0], torch.full_like(actual[0], PRIOR / (1 - PRIOR)))
    # Samples go their own ways, and not all of them to an end.
    inside = (actual[-1] > 1.01 * FLOOR) & (actual[-1] < 0.99 * CEILING / (1 - CEILING))
    assert inside.any() and len(set(actual[-1].tolist())) == 3
    for one, other in zip(actual, literal(visited), strict=True):
        torch.testing.assert_close(one, other)


def test_dynamic_negative_of_a_flow_model(dynamic, Noise, step_at):
    """The same at x/(1 − t) and t/(1 − t)."""
    visited = states()
    times = [(s / (1 + s), x / (1 + s), C, N) for s, x, C, N in visited]
    run = (*(time for time, *_ in times), 0.0)
    flow = Noise(True, lambda percent: 1 - percent, sigmas=run)
    actual = factors(dynamic().start(flow), flow, step_at, times)
    for one, other in zip(actual, literal(visited), strict=True):
        torch.testing.assert_close(one, other)


def test_dynamic_negative_per_dimension(dynamic, noise, step_at):
    visited = states()
    per_number = 1000 / visited[0][1][0].numel()
    schedule = dynamic(per_dimension=True, temperature=3.0, offset=0.5)
    actual = factors(schedule.start(noise), noise, step_at, visited)
    for one, other in zip(
        actual, literal(visited, 3.0 * per_number, 0.5 * per_number), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("offset", "end"), [(1e6, CEILING), (-1e6, FLOOR)])
def test_dynamic_negative_stays_between_floor_and_ceiling(offset, end, dynamic, noise, step_at):
    schedule = dynamic(offset=offset)
    first, *others = factors(schedule.start(noise), noise, step_at, states())
    assert (first == PRIOR / (1 - PRIOR)).all()
    for factor in others:
        torch.testing.assert_close(factor, torch.full_like(factor, end / (1 - end)))
    assert end / (1 - end) in schedule.range()


def test_dynamic_negative_comes_back_from_an_end(dynamic, noise, step_at):
    """The clamped posterior is the one that goes on."""
    visited = states()
    schedule = dynamic(offset=5.0)
    actual = factors(schedule.start(noise), noise, step_at, visited)
    for one, other in zip(actual, literal(visited, offset=5.0), strict=True):
        torch.testing.assert_close(one, other)


def test_samples_have_posteriors_of_their_own(dynamic, noise, step_at):
    visited = states()
    together = factors(dynamic().start(noise), noise, step_at, visited)
    for i in range(3):
        one = [(sigma, *(t[i : i + 1] for t in tensors)) for sigma, *tensors in visited]
        alone = factors(dynamic().start(noise), noise, step_at, one)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b)


def test_dynamic_negative_starts_afresh_with_each_run(dynamic, noise, step_at):
    schedule, visited = dynamic(), states()
    first, second = (factors(schedule.start(noise), noise, step_at, visited) for _ in range(2))
    assert not torch.equal(first[0], first[-1])
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_calls_that_are_made_again_do_not_count_twice(dynamic, noise, step_at):
    """As Heun makes them, which first tries each step."""
    visited = states()
    tried = [(sigma, x + 0.3, C - 0.2, N + 0.1) for sigma, x, C, N in visited]
    calls = [visited[0]]
    for trial, accepted in zip(tried[1:], visited[1:], strict=True):
        calls += [trial, accepted]
    actual = factors(dynamic().start(noise), noise, step_at, calls)
    for one, other in zip(actual[::2], literal(visited), strict=True):
        torch.testing.assert_close(one, other)


def test_the_same_call_again_has_the_same_factor(dynamic, noise, step_at):
    running = dynamic().start(noise)
    for each in states():
        step = step_at(noise, *each)
        assert torch.equal(running(step), running(step))


def test_calls_in_between_do_not_count(dynamic, noise, step_at):
    """As DPM-Solver-2 makes them."""
    visited = states()
    calls = []
    for sigma, x, C, N in visited:
        calls += [(sigma, x, C, N), (0.85 * sigma, x + 0.3, C - 0.2, N + 0.1)]
    actual = factors(dynamic().start(noise), noise, step_at, calls)
    for one, other in zip(actual[::2], literal(visited), strict=True):
        torch.testing.assert_close(one, other)


def test_restart_goes_on_from_the_step_above(dynamic, noise, step_at):
    visited = states()
    again = [(sigma, x + 0.1, C, N) for sigma, x, C, N in visited]
    calls = [*visited[:4], *again[2:4]]
    actual = factors(dynamic().start(noise), noise, step_at, calls)
    for one, other in zip(actual[4:], literal([*visited[:2], *again[2:4]])[2:], strict=True):
        torch.testing.assert_close(one, other)


def test_restart_above_all_keeps_the_posterior(dynamic, noise, step_at):
    """There is no step that leads there, of which something could be learned."""
    visited = states()
    calls = [*visited[2:4], visited[0], visited[1]]
    actual = factors(dynamic().start(noise), noise, step_at, calls)
    assert torch.equal(actual[2], actual[0])
    for one, other in zip(actual[2:], literal(visited[:2]), strict=True):
        torch.testing.assert_close(one, other)


def test_sampler_may_go_on_in_the_same_latent(dynamic, noise, step_at):
    running, latent, actual = dynamic().start(noise), torch.empty(3, 2, 3, 4).double(), []
    visited = states()
    for sigma, x, C, N in visited:
        latent.copy_(x)
        actual.append(running(step_at(noise, sigma, latent, C, N)))
    for one, other in zip(actual, literal(visited), strict=True):
        torch.testing.assert_close(one, other)


def test_negative_prompt_that_makes_no_difference_leaves_the_prior(dynamic, noise, step_at):
    visited = [(sigma, x, C, C) for sigma, x, C, _ in states()]
    for factor in factors(dynamic(offset=0.0).start(noise), noise, step_at, visited):
        torch.testing.assert_close(factor, torch.full_like(factor, PRIOR / (1 - PRIOR)))


# Stop When Settled


def turned(C, cosine):
    """What lies at an angle to ``C``, of each sample, and is longer."""
    other = random(*C.shape, seed=5)
    length = C.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    along = (other * C).flatten(1).sum(1).view(-1, 1, 1, 1) / length**2
    across = other - along * C
    across = across / across.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * length
    cosine = torch.tensor(cosine, dtype=torch.float64).view(-1, 1, 1, 1)
    return 1.3 * (cosine * C + (1 - cosine**2).sqrt() * across)


@pytest.fixture
def settling(schedules, noise, step_at):
    """Factors at some sigmas, where two samples have some cosines between C and R."""

    def settling(*at, start=0.0, shape=(2, 2, 4, 4)):
        running = schedules.RunningSchedules([schedules.StopWhenSettled(0.99, start)], noise)
        factors = []
        for sigma, cosines in at:
            if running.is_off(sigma):
                factors.append("off")
                continue
            x, C = random(*shape), random(*shape, seed=3)
            factor = running.at(1.0, step_at(noise, sigma, x, C, turned(C, cosines)))
            factors.append(factor if isinstance(factor, float) else factor.tolist())
        return factors

    return settling


FAR, NEAR = 0.98, 0.995


def test_each_sample_stops_by_itself_and_for_good(settling):
    at = [(10.0, [FAR, FAR]), (7.5, [NEAR, FAR]), (5.0, [FAR, FAR]), (2.5, [FAR, NEAR])]
    # The step at which it shows has its push still: both predictions are there.
    assert settling(*at, (1.0, [FAR, FAR])) == [1.0, 1.0, [0.0, 1.0], [0.0, 1.0], "off"]


def test_nothing_stops_before_its_start(settling):
    at = [(10.0, [NEAR, NEAR]), (5.0, [NEAR, NEAR]), (2.5, [NEAR, NEAR])]
    assert settling(*at) == [1.0, "off", "off"]
    assert settling(*at, start=0.45) == [1.0, 1.0, "off"]


def test_restart_above_where_it_stopped_pushes_again(settling):
    at = [(7.5, [NEAR, NEAR]), (5.0, [NEAR, NEAR]), (10.0, [FAR, FAR]), (5.0, [FAR, NEAR])]
    assert settling(*at) == [1.0, "off", 1.0, 1.0]


def test_stop_multiplies_with_what_is_known(schedules, noise, step_at):
    chain = [schedules.StopWhenSettled(0.99, 0.0), schedules.Interval(8.0, 2.0, True)]
    running = schedules.RunningSchedules(chain, noise)
    assert running.is_off(10.0) and not running.is_off(7.5)
    C = random(2, 2, 4, 4)
    assert running.at(1.5, step_at(noise, 7.5, C, C, turned(C, [NEAR, NEAR]))) == 1.5
    assert running.is_off(5.0) and running.bounds(1.5, 5.0) == (0.0, 1.5)
