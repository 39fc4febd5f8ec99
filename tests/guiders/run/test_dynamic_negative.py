"""Dynamic negative guidance where the truth is known: a mixture of normal distributions.

Denoised predictions and the posterior of each component have a closed form there. ComfyUI's own
ancestral sampler goes through it with the pack's own schedule.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import comfy.k_diffusion.sampling
import comfy.model_sampling
import pytest
import torch
from torch import Tensor

from support.rig import Run, core_guider, untouched

# Four components in the plane. The first one is forbidden, the last one is far from all others
# and has no share at all.
CENTRES = torch.tensor(
    [[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5], [0.0, 4.0], [8.0, 0.0]], dtype=torch.float64
)
SHARES = torch.tensor([0.1, 0.3, 0.4, 0.2, 0.0], dtype=torch.float64)
FORBIDDEN, UNRELATED = 0, 4
DEVIATION = 0.3
SIGMA_MAX, SIGMA_MIN = 20.0, 0.01

EXACT = {"prior": 0.1, "temperature": 1.0, "per_dimension": False, "offset": 0.0}


def posterior(x: Tensor, sigma: float) -> Tensor:
    """How probable each component is for noisy points [n, 2]: [n, 5]."""
    squares = (x[:, None] - CENTRES).square().sum(-1)
    return (SHARES.log() - squares / (2 * (DEVIATION**2 + sigma**2))).softmax(1)


def denoised(x: Tensor, sigma: float) -> Tensor:
    """The mean of each component's points that may have become noisy points: [n, 5, 2]."""
    kept = DEVIATION**2 / (DEVIATION**2 + sigma**2)
    return CENTRES + kept * (x[:, None] - CENTRES)


def sigmas_of(steps: int) -> Tensor:
    return comfy.k_diffusion.sampling.get_sigmas_karras(steps, SIGMA_MIN, SIGMA_MAX).double()


@dataclass
class Guided:
    """The mixture as a model, pushed away from one component."""

    away_from: int
    strength: float
    factor: Callable[..., Tensor] | None  # None for a constant push
    tracked: list[Tensor] = field(default_factory=list)
    true: list[Tensor] = field(default_factory=list)

    def __post_init__(self):
        sampling = comfy.model_sampling.ModelSamplingDiscrete()
        # Samplers look for it on the model that they think is inside of two wrappers.
        self.inner_model = SimpleNamespace(model_sampling=sampling)
        self.inner_model.inner_model = self.inner_model

    def __call__(self, x: Tensor, sigma: Tensor, **_: object) -> Tensor:
        points, level = x.flatten(1), float(sigma[0])
        parts, shares = denoised(points, level), posterior(points, level)
        C = (shares[:, :, None] * parts).sum(1).view_as(x)
        N = parts[:, self.away_from].view_as(x)
        strength = torch.full_like(sigma, self.strength)
        if self.factor is not None:
            step = SimpleNamespace(x=x, sigma=sigma, level=level, C=C, R=N, noise=self.noise)
            factor = self.factor(step)
            self.tracked.append(factor / (1 + factor))
            self.true.append(shares[:, self.away_from])
            strength = self.strength * factor
        return C + strength.view(-1, 1, 1, 1) * (C - N)


@pytest.fixture(scope="module")
def sample(pack):
    """Sample points [n, 2] with a push; dynamic if settings of the schedule are given."""

    @cache
    def sample(strength, away_from=FORBIDDEN, steps=100, points=2000, **settings):
        sigmas = sigmas_of(steps)
        noise = pack.guiders.push.noise.Noise(
            False, lambda percent: 1 - percent, 1.0, tuple(sigmas)
        )
        schedule = None
        if settings:
            bounds = {"floor": 1e-6, "ceiling": 0.999}
            negative = pack.guiders.push.schedules.DynamicNegative(**{**bounds, **settings})
            schedule = negative.start(noise)
        guided = Guided(away_from, strength, schedule)
        guided.noise = noise
        generator = torch.Generator().manual_seed(0)

        def normal(*_):
            return torch.randn(points, 1, 1, 2, generator=generator, dtype=torch.float64)

        result = comfy.k_diffusion.sampling.sample_euler_ancestral(
            guided, normal() * SIGMA_MAX, sigmas, noise_sampler=normal, disable=True
        )
        return result.flatten(1), guided

    return sample


def shares_of(points: Tensor) -> Tensor:
    """How many of the points lie nearest to each of the four components."""
    nearest = (points[:, None] - CENTRES[:4]).norm(dim=-1).argmin(1)
    return torch.bincount(nearest, minlength=4) / len(points)


def outliers(points: Tensor) -> float:
    """Share of the points that lie farther from all components than any of 500 true ones would."""
    distances = (points[:, None] - CENTRES[:4]).norm(dim=-1).min(1).values
    return float((distances > 3.5 * DEVIATION).double().mean())


def imbalance(points: Tensor) -> float:
    """Kullback-Leibler divergence of the three allowed components to their true proportions."""
    found, true = (s[1:4] / s[1:4].sum() for s in (shares_of(points).double(), SHARES))
    return float((found * (found / true).log()).sum())


def tracking_error(sample, steps: int) -> float:
    _, guided = sample(0.0, steps=steps, **EXACT)
    pairs = zip(guided.tracked, guided.true, strict=True)
    return float(torch.stack([(a - b).abs() for a, b in pairs]).mean())


def test_posterior_follows_the_true_one(sample):
    """The finer the steps, the closer: a step is a normal distribution only if it is short."""
    errors = [tracking_error(sample, steps) for steps in (25, 100, 400)]
    assert errors[0] < 0.03 and errors[2] < 0.012
    assert errors == sorted(errors, reverse=True)


def test_posterior_tells_the_forbidden_component_at_the_end(sample):
    points, guided = sample(0.0, **EXACT)
    nearest = (points[:, None] - CENTRES[:4]).norm(dim=-1).argmin(1)
    there, elsewhere = (guided.tracked[-1][mask] for mask in (nearest == 0, nearest != 0))
    assert there.median() > 0.9 and elsewhere.median() < 1e-4


def test_exact_strength_removes_the_component(sample):
    """At λ = 1 the guided score is that of the mixture without it, by Bayes' rule."""
    points, _ = sample(1.0, **EXACT)
    assert shares_of(points)[0] < 0.02
    assert imbalance(points) < 0.002
    assert outliers(points) < 0.01


def test_constant_push_at_the_same_removal_distorts_the_others(sample):
    dynamic, _ = sample(1.5, **EXACT)
    constant, _ = sample(0.5)
    assert shares_of(dynamic)[0] < 0.01 and shares_of(constant)[0] < 0.015
    assert outliers(dynamic) < 0.01 and outliers(constant) > 0.5
    assert imbalance(constant) > 10 * imbalance(dynamic)


def test_unrelated_negative_leaves_the_picture_alone(sample):
    unguided, _ = sample(0.0, away_from=UNRELATED)
    constant, _ = sample(1.0, away_from=UNRELATED)
    dynamic, guided = sample(1.0, away_from=UNRELATED, **EXACT)
    change = [(points - unguided).norm(dim=1) for points in (dynamic, constant)]
    assert change[0].mean() < 0.1 * change[1].mean()
    assert guided.tracked[-1].quantile(0.9) < 1e-5


def test_node_as_it_comes_leaves_unrelated_pictures_alone(node, main, positive, comfy_nodes):
    """A digit, and another one as the negative prompt, which the model does tell apart."""
    other = node("DigitConditioning", digit="8")
    schedule = node(
        "BadVersionDynamicNegative", **untouched(comfy_nodes["BadVersionDynamicNegative"])
    )
    run = Run.of(main, shape=(8, 16, 8, 8), steps=20, sampler="euler_ancestral")
    alone = run.sample(core_guider(main, positive))
    constant = run.sample(core_guider(main, positive, other, 6.0))
    patched = node("BadVersionPatch", model=main, weak_scale=1.0, negative_schedule=schedule)
    dynamic = run.sample(core_guider(patched, positive, other, 6.0))
    change = [(latent - alone).norm() for latent in (dynamic, constant)]
    assert 0 < change[0] < 0.1 * change[1]
