"""What is remembered over the steps of a run, where the latents change their size on the way."""

import pytest
import torch

SIGMAS = (10.0, 8.0, 6.0, 4.0, 2.0, 0.0)
SMALL, LARGE = torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 5, 5)


@pytest.fixture(scope="module")
def memory(pack):
    return pack.guiders.push.memory


@pytest.fixture(scope="module")
def noise(pack):
    return pack.guiders.push.noise.Noise(False, lambda percent: 10 * (1 - percent), sigmas=SIGMAS)


def followed(trajectory, latents):
    """For each call, the number of the call at which its step starts."""
    starts = []
    for i, (sigma, latent) in enumerate(zip(SIGMAS, latents, strict=False)):
        starts.append(trajectory.before(sigma, latent))
        trajectory.visit(sigma, i)
    return starts


@pytest.mark.parametrize(
    ("latents", "expected"),
    [
        ([SMALL] * 4, [None, 0, 1, 2]),
        ([SMALL, SMALL, LARGE, LARGE], [None, 0, None, 2]),
        ([SMALL, LARGE, SMALL, SMALL], [None, None, None, 2]),
        ([SMALL, SMALL[:1], SMALL[:1]], [None, None, 1]),
    ],
    ids=["one size", "larger", "larger and back", "fewer samples"],
)
def test_no_step_starts_at_a_state_of_another_size(latents, expected, memory):
    assert followed(memory.Trajectory(SIGMAS), latents) == expected


def test_state_in_between_of_another_size_leaves_no_trace(memory):
    trajectory = memory.Trajectory(SIGMAS)
    for sigma in (10.0, 9.0):
        trajectory.before(sigma, SMALL)
        trajectory.visit(sigma, sigma)
    assert trajectory.before(8.0, LARGE) is None
    trajectory.visit(8.0, 8.0)
    assert trajectory.before(6.0, LARGE) == 8.0


def test_forgotten_states_of_another_size_are_none_above(memory):
    """A restart above all that is remembered starts at the highest, but of its own size."""
    steps = [float(sigma) for sigma in range(20, 10, -1)]
    trajectory = memory.Trajectory(steps)
    for sigma in steps:
        trajectory.before(sigma, SMALL)
        trajectory.visit(sigma, sigma)
    assert trajectory.before(5.0, LARGE) is None
    trajectory.visit(5.0, 5.0)
    assert trajectory.before(19.0, LARGE) is None


def test_difference_of_another_size_is_not_carried_over(memory, noise):
    carried = memory.Carried(16, noise)

    def is_due(latent, level):
        due = carried.is_due(latent, level)
        assert carried.is_due(latent, level) == due, "asking twice must not matter"
        if due:
            carried.find(torch.ones_like(latent), torch.full((2,), level), level)
        else:
            assert carried.at(torch.full((2,), level), level).shape == latent.shape
        return due

    due = [
        is_due(latent, level)
        for latent, level in zip([SMALL] * 2 + [LARGE] * 3, SIGMAS, strict=False)
    ]
    assert due == [True, False, True, False, False]


def test_momentum_begins_anew_in_another_size(pack, noise):
    shape = pack.guiders.push.shapes.Projected(1.0, 0.0, -0.5).start(noise)
    generator = torch.Generator().manual_seed(0)
    sides = (3, 3, 5, 5)
    deltas = [torch.randn(2, 4, side, side, generator=generator) for side in sides]
    a, b, c, d = deltas
    expected = [a, b - 0.5 * a, c, d - 0.5 * c]
    for sigma, delta, wanted in zip(SIGMAS, deltas, expected, strict=False):
        step = pack.guiders.push.call.Step(
            noise=noise,
            x=delta,
            sigma=torch.full((2,), sigma),
            C=delta,
            R=torch.zeros_like(delta),
            difference=delta,
            other=lambda: None,
            predict=lambda name: None,
            measure_level=lambda sigma=sigma: sigma,
        )
        torch.testing.assert_close(shape(delta, step, 1.0), wanted)


def test_dynamic_negative_begins_anew_in_another_size(pack, noise):
    schedule = pack.guiders.push.schedules.DynamicNegative(0.1, 1.0, False, 0.3, 1e-6, 0.8)
    generator = torch.Generator().manual_seed(0)

    def factors(sides, first=0):
        running = schedule.start(noise)
        out = []
        for sigma, (x, C, R) in zip(SIGMAS[first:], sides, strict=False):
            step = pack.guiders.push.call.Step(
                noise=noise,
                x=x,
                sigma=torch.full((2,), sigma),
                C=C,
                R=R,
                difference=C - R,
                other=lambda: None,
                predict=lambda name: None,
                measure_level=lambda sigma=sigma: sigma,
            )
            out.append(running(step))
        return out

    states = [torch.randn(3, 2, 4, side, side, generator=generator) for side in (3, 3, 5, 5)]
    actual = factors(states)
    expected = [*factors(states[:2]), *factors(states[2:], first=2)]
    assert all(map(torch.equal, actual, expected))
    assert not torch.equal(actual[3], actual[2])
