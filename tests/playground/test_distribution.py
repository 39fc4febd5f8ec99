"""What is known of the world in closed form agrees with what can be counted."""

import math

import pytest
import torch

CELL = 0.005
LABELS = [0, 1, 2]


@pytest.fixture(scope="module")
def cells(world):
    """The middles of small cells all over the world, and the weight of each for every label."""
    side = torch.arange(-1.25, 1.25, CELL) + CELL / 2
    middles = torch.cartesian_prod(side, side)
    # Most weigh nothing, as they lie far from all parts.
    near = [
        torch.cdist(part, world.means.float()).min(1).values < 0.15 for part in middles.split(2000)
    ]
    middles = middles[torch.cat(near)].double()
    weights = [world.log_density(middles, label).exp() * CELL**2 for label in (0, 1)]
    return middles, [*weights, (weights[0] + weights[1]) / 2]


def labels(label, count):
    return torch.full((count,), label)


@pytest.mark.parametrize("label", LABELS)
def test_density_integrates_to_one(world, cells, label):
    _, weights = cells
    assert math.isclose(weights[label].sum(), 1, abs_tol=2e-3)


def test_both_trees_together_are_centred_and_of_the_promised_size(world, cells, playground):
    middles, weights = cells
    both = weights[2]
    assert (both @ middles).abs().max() < 1e-3
    power = both @ middles.square()
    assert math.isclose(power.mean().sqrt(), playground.distribution.DEVIATION, rel_tol=3e-3)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("label", LABELS)
def test_denoised_is_the_mean_of_what_a_point_may_have_been(world, cells, label, sigma):
    middles, weights = cells
    generator = torch.Generator().manual_seed(0)
    x = world.sample(12, label, generator)
    x = x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    likelihood = torch.exp(-torch.cdist(x, middles).square() / (2 * sigma**2)) * weights[label]
    expected = likelihood @ middles / likelihood.sum(1, keepdim=True)
    denoised = world.denoised(x, torch.full((12,), sigma).double(), labels(label, 12))
    torch.testing.assert_close(denoised, expected, rtol=0, atol=0.03 * sigma + 1e-4)
    alike = world.denoised(x, torch.tensor([sigma]).double(), labels(label, 1))
    torch.testing.assert_close(alike, denoised, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.003, 0.05, 0.7])
@pytest.mark.parametrize("label", LABELS)
def test_denoised_goes_up_the_density(world, label, sigma):
    """Tweedie's formula: ``denoised = x + σ² ∇ log p``, with the density under that noise."""
    x = world.sample(50, label, torch.Generator().manual_seed(1)) + sigma
    with torch.enable_grad():
        x.requires_grad_()
        (slope,) = torch.autograd.grad(world.log_density(x, label, sigma).sum(), x)
    x = x.detach()
    denoised = world.denoised(x, torch.tensor([sigma]).double(), labels(label, 1))
    torch.testing.assert_close(denoised, x + sigma**2 * slope, rtol=0, atol=1e-7)


def test_single_precision_is_enough_for_training(world):
    x = world.sample(200, 2, torch.Generator().manual_seed(2))
    for sigma in (0.002, 0.05, 5.0):
        level = torch.tensor([sigma]).double()
        exact = world.denoised(x, level, labels(2, 1))
        coarse = world.denoised(x.float(), level.float(), labels(2, 1))
        assert coarse.dtype == torch.float32
        assert (coarse - exact).norm(dim=1).max() < 0.02 * sigma


@pytest.mark.parametrize("label", LABELS)
def test_true_points_lie_as_dense_as_the_density_says(world, cells, label):
    middles, weights = cells
    points = world.sample(40_000, label, torch.Generator().manual_seed(3))
    for direction in ((1.0, 0.0), (0.6, 0.8), (-0.8, 0.6)):
        axis = torch.tensor(direction, dtype=torch.float64)
        for end in (-0.4, -0.1, 0.2, 0.5):
            expected = weights[label][middles @ axis < end].sum()
            found = (points @ axis < end).double().mean()
            assert abs(found - expected) < 0.012


def test_the_world_is_the_same_every_time(world, playground):
    again = playground.distribution.world.__wrapped__()
    assert torch.equal(again.means, world.means) and torch.equal(again.weights, world.weights)
