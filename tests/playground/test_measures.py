"""Each measure, counted again in the plainest way there is."""

import itertools
import math

import pytest
import torch


@pytest.fixture(scope="module")
def truth(world):
    """True points, other ones than the ruler's own."""
    return world.sample(4000, 0, torch.Generator().manual_seed(77))


@pytest.fixture(scope="module")
def drawn(world):
    """True points of both trees, the second half of them blurred."""
    generator = torch.Generator().manual_seed(5)
    points = world.sample(600, 2, generator)
    points[300:] += 0.05 * torch.randn(300, 2, generator=generator, dtype=points.dtype)
    return points


def test_one_in_a_hundred_true_points_is_an_outlier(ruler, truth):
    assert math.isclose(ruler.outliers(truth), 0.01, abs_tol=0.005)


def test_outliers_are_counted_one_by_one(ruler, world, drawn):
    parts = torch.distributions.MultivariateNormal(
        world.means,
        sum(
            variance[:, None, None] * axis[:, :, None] * axis[:, None, :]
            for variance, axis in zip(
                world.variances.T,
                (world.directions, world.directions.flip(1) * torch.tensor([-1.0, 1.0])),
                strict=True,
            )
        ),
    )
    wanted = world.weights * (world.labels == 0)
    count = 0
    for point in drawn:
        density = (parts.log_prob(point).exp() * wanted).sum() / wanted.sum()
        count += int(density < math.exp(ruler.level))
    assert ruler.outliers(drawn) == count / len(drawn)
    assert 0.5 < count / len(drawn) < 0.95


def test_area_holds_nearly_all_of_the_truth(ruler, world, truth):
    """All its cells together have the weight that is promised, and none lies outside."""
    step = (ruler.area[1:] - ruler.area[:-1]).abs().max(1).values.median()
    weight = world.log_density(ruler.area, 0).exp().sum() * step**2
    assert math.isclose(weight, 0.99, abs_tol=0.005)
    assert ruler.outliers(ruler.area) == 0


def test_coverage_is_counted_one_by_one(ruler, playground, drawn, truth):
    reach = playground.measures.REACH

    def reached(points):
        near = [torch.cdist(part, points).min(1).values <= reach for part in ruler.area.split(500)]
        return torch.cat(near).double().mean()

    own = ruler._truth[: len(drawn)]
    assert math.isclose(ruler.coverage(drawn), reached(drawn) / reached(own), abs_tol=1e-9)


def test_coverage_of_the_truth_and_of_a_part_of_it(ruler, truth):
    assert math.isclose(ruler.coverage(truth), 1, abs_tol=0.02)
    middle = ruler.area[:, 0].median()
    assert math.isclose(ruler.coverage(truth[truth[:, 0] < middle]), 0.5, abs_tol=0.05)
    assert ruler.coverage(truth[:1].expand(4000, 2)) < 0.01
    assert ruler.coverage(truth + 5) == 0


def test_distance_is_that_of_the_best_pairing(ruler, drawn):
    points, own = drawn[:7], ruler._truth[:7]
    ways = torch.cdist(points, own)
    best = min(
        sum(float(ways[i, j]) for i, j in enumerate(pairing))
        for pairing in itertools.permutations(range(7))
    )
    assert math.isclose(ruler.distance(points), best / 7, rel_tol=1e-9)


def test_distance_of_what_has_moved_is_how_far(ruler):
    moved = ruler._truth[:500] + torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert math.isclose(ruler.distance(moved), 5, rel_tol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_divergence_of_two_normal_distributions(playground, shift):
    """For a shift by ``d`` it is ``d²/2σ²``."""
    deviation = 0.3
    one = torch.ones(2, dtype=torch.float64)
    world = playground.distribution.Mixture(
        weights=one / 2,
        means=torch.zeros(2, 2, dtype=torch.float64),
        directions=torch.tensor([[0.6, 0.8], [1.0, 0.0]], dtype=torch.float64),
        variances=torch.full((2, 2), deviation**2, dtype=torch.float64),
        labels=torch.tensor([0, 1]),
    )
    points = world.sample(20_000, 0, torch.Generator().manual_seed(1))
    points = points + deviation * shift * torch.tensor([0.0, 1.0])
    found = playground.measures.Ruler(world, 0).divergence(points)
    assert math.isclose(found, shift**2 / 2, abs_tol=0.06)
