"""The sampler follows the models; guidance in it is the guider's arithmetic."""

import math
from functools import partial

import pytest
import torch


@pytest.fixture(scope="module")
def models(playground):
    return playground.methods.models()


@pytest.fixture
def away(playground, models, pack):
    """Push away from the weak model; other predictors by name."""

    def away(scale, predictor="weak", label=0, schedules=(), shapes=()):
        settings = pack.guiders.push.push.Push(scale - 1, tuple(schedules), tuple(shapes))
        return playground.sampling.BadVersion(getattr(models, predictor), label, settings)

    return away


@pytest.fixture
def guided(playground, models):
    """Guided prediction and push at some points and a noise level of the run."""

    def guided(bad_versions, x, step=10):
        sigmas = playground.sampling.noise_levels()
        run = playground.sampling.Guided(models.main, 0, bad_versions, sigmas)
        return run.predict(x, float(sigmas[step]))

    return guided


@pytest.fixture
def draw(playground, models):
    return partial(playground.sampling.sample, models.main, 0)


X = torch.tensor([[0.3, 0.2], [-0.4, 0.1], [1.5, -1.0], [0.0, 0.0], [0.7, 0.3]])


def sigma_of(playground, step=10):
    return float(playground.sampling.noise_levels()[step])


def predicted(model, x, sigma, label=0):
    count = len(x)
    return model(x, torch.full((count,), sigma), torch.full((count,), label))


def test_an_ideal_model_draws_the_truth(playground, world, ruler):
    ends = playground.sampling.sample(world.denoised, 0, (), 1500, seed=3).ends
    assert ruler.outliers(ends) < 0.02
    assert math.isclose(ruler.coverage(ends), 1, abs_tol=0.04)


def test_one_normal_distribution_has_a_path_in_closed_form(playground):
    """With data of deviation ``s``, ``x(σ) = x(σ₀) √(s² + σ²)/√(s² + σ₀²)``."""
    s = 0.3
    paths = playground.sampling.sample(
        lambda x, sigma, label: x * (s**2 / (s**2 + sigma**2))[:, None], 0, (), 20, seed=0
    )
    lengths = (s**2 + paths.sigmas**2).sqrt() / math.hypot(s, paths.sigmas[0])
    expected = paths.points[0] * lengths[:, None, None]
    torch.testing.assert_close(paths.points, expected, rtol=0, atol=0.02)
    assert paths.points.shape == (33, 20, 2) and paths.pushes.shape == (32, 20, 2)
    assert not paths.pushes.any()


def test_noise_falls_to_nothing(playground):
    sigmas = playground.sampling.noise_levels(8)
    assert len(sigmas) == 9 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
    noise = playground.sampling.noise_of(sigmas)
    for step, sigma in enumerate(sigmas[1:-1].tolist(), start=1):
        assert math.isclose(noise.percent_of(sigma), step / 8, abs_tol=1e-6)


def test_the_same_seed_starts_from_the_same_noise(draw, away):
    plain, pushed, other = draw((), 10, 4), draw((away(2.0),), 10, 4), draw((), 10, 5)
    assert torch.equal(plain.points[0], pushed.points[0])
    assert not torch.equal(plain.ends, pushed.ends)
    assert not torch.equal(plain.points[0], other.points[0])


def test_a_scale_of_one_is_no_guidance(draw, away, pack):
    plain = draw((), 50, 0)
    shapes = [pack.guiders.push.shapes.Projected(0.0, 15.0, -0.5)]
    for bad_versions in ([away(1.0)], [away(1.0, shapes=shapes), away(1.0, "main", 2)]):
        assert torch.equal(draw(bad_versions, 50, 0).points, plain.points)


def test_a_push_that_a_schedule_has_switched_off_makes_no_prediction(playground, models, pack):
    asked = []

    def weak(x, sigma, label):
        asked.append(float(sigma[0]))
        return models.weak(x, sigma, label)

    interval = pack.guiders.push.schedules.Interval(0.25, 0.5, False)
    settings = pack.guiders.push.push.Push(1.0, (interval,))
    pushed = playground.sampling.BadVersion(weak, 0, settings)
    paths = playground.sampling.sample(models.main, 0, (pushed,), 5, seed=0)
    inside = paths.sigmas[8:16]
    assert set(asked) == set(inside.tolist())
    on = paths.pushes.abs().sum((1, 2)) > 0
    assert on.nonzero().flatten().tolist() == list(range(8, 16))


def test_push_is_the_formula(guided, away, models, playground):
    sigma = sigma_of(playground)
    C, N, U = (predicted(models.main, X, sigma, label) for label in (0, 1, 2))
    W = predicted(models.weak, X, sigma)
    for reference, label, R in (("weak", 0, W), ("main", 2, U), ("main", 1, N)):
        found, push = guided([away(2.5, reference, label)], X)
        torch.testing.assert_close(found, C + 1.5 * (C - R), rtol=0, atol=1e-6)
        torch.testing.assert_close(push, 1.5 * (C - R), rtol=0, atol=1e-6)
    found, _ = guided([away(2.0), away(3.0, "main", 2)], X)
    torch.testing.assert_close(found, C + (C - W) + 2 * (C - U), rtol=0, atol=1e-6)


def test_schedules_and_shapes_are_those_of_the_guider(guided, away, models, playground, pack):
    schedules, shapes = pack.guiders.push.schedules, pack.guiders.push.shapes
    sigma = sigma_of(playground)
    C, U = (predicted(models.main, X, sigma, label) for label in (0, 2))
    delta = C - predicted(models.weak, X, sigma)
    curve = schedules.Curve(((0.0, 0.5),), False, "linear")
    _, push = guided([away(3.0, schedules=[curve])], X)
    torch.testing.assert_close(push, delta, rtol=0, atol=1e-6)

    cap = shapes.Cap(0.01, False)
    _, push = guided([away(3.0, shapes=[cap])], X)
    assert (push.norm(dim=1) <= 0.02 + 1e-6).all()
    torch.testing.assert_close(push.norm(dim=1), 2 * delta.norm(dim=1).clamp(max=0.01))

    other = C - U
    _, push = guided([away(2.0, shapes=[shapes.Reject("different")]), away(2.0, "main", 2)], X)
    rejected = push - other
    torch.testing.assert_close((rejected * other).sum(1), torch.zeros(5), rtol=0, atol=1e-6)
    along = (delta * other).sum(1) / other.square().sum(1)
    torch.testing.assert_close(rejected, delta - along[:, None] * other, rtol=0, atol=1e-6)

    # What Perp-Neg compares with is the empty prompt of this world.
    perp = shapes.PerpNeg([], 1.0)
    found, _ = guided([away(2.0, "main", 1, shapes=[perp])], X)
    N = predicted(models.main, X, sigma, 1)
    P, Q = C - U, N - U
    rejected = Q - ((Q * P).sum(1) / P.square().sum(1))[:, None] * P
    torch.testing.assert_close(found, U + 2 * (P - rejected), rtol=0, atol=1e-5)


def test_dynamic_negative_goes_by_each_point_alone(playground, models):
    settings = playground.methods.Settings(cfg=2.0, weak_scale=2.0)
    bad_versions = playground.methods.dynamic_negative(models, settings)
    sampled = playground.sampling.sample(models.main, 0, bad_versions, 6, seed=1)

    # The posterior of each point by itself, from the predictions on its way.
    dynamic = playground.methods.DYNAMIC
    p = torch.full((6,), dynamic.prior, dtype=torch.float64)
    levels = sampled.sigmas.double()
    for step in range(31):
        x, sigma = sampled.points[step].double(), levels[step]
        C, N = (predicted(models.main, x.float(), float(sigma), each).double() for each in (0, 1))
        push = (p / (1 - p))[:, None] * (C - N)
        torch.testing.assert_close(sampled.pushes[step].double(), push, rtol=2e-3, atol=1e-5)
        following = levels[step + 1]
        ratio = (following / sigma) ** 2
        variance = following**2 * (1 - ratio)
        ahead = sampled.points[step + 1].double()
        nearer = [(ahead - D - ratio * (x - D)).square().sum(1) for D in (C, N)]
        p = p * torch.exp((nearer[0] - nearer[1]) / (2 * variance))
        p = p.clamp(dynamic.floor, dynamic.ceiling)


def test_every_step_is_told(playground, models):
    told = []
    playground.sampling.sample(models.main, 0, (), 2, seed=0, steps=5, on_step=told.append)
    assert told == [0, 1, 2, 3, 4]
