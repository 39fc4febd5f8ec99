"""From where a step starts, at the model calls that samplers really make."""

import warnings
from itertools import pairwise
from types import SimpleNamespace

import comfy.model_sampling
import comfy.samplers
import pytest
import torch

# Named with the reason why "the run's sigma directly above" means nothing for them.
OTHER_SIGMAS = {
    "dpm_fast": "makes a schedule of its own from the first sigma, the last one and their number",
    "dpm_adaptive": "makes a schedule of its own, and goes back where a step was too long",
}
SAMPLERS = [name for name in comfy.samplers.SAMPLER_NAMES if name not in OTHER_SIGMAS]

CLOSE = 5e-5
LATENT = torch.zeros(1, 4, 2, 2)


def model_sampling(kind):
    bases = {
        "noise": (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS),
        "flow": (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST),
    }
    return type("Sampling", bases[kind], {})()


class ToyModel:
    """A denoiser for pictures that are all black, which writes down the sigmas it is called at."""

    def __init__(self, sampling):
        self.calls = []
        # Samplers look for it on the model that they think is inside of two wrappers.
        self.model_sampling = sampling
        self.model_patcher = SimpleNamespace(get_model_object=lambda name: sampling)
        self.inner_model = self

    def __call__(self, x, sigma, model_options=None, seed=None):
        self.calls.append(float(sigma.max()))
        denoised = x * 0
        # Samplers of the CFG++ kind get the negative prediction this way.
        for function in (model_options or {}).get("sampler_post_cfg_function", []):
            denoised = function({"denoised": denoised, "uncond_denoised": denoised})
        return denoised


def sampled(name, kind="noise", scheduler="simple", steps=7, **options):
    """The run's sigmas, and those of all model calls."""
    model = ToyModel(model_sampling(kind))
    sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, scheduler, steps)
    run = tuple(sigmas.tolist())
    sampler = (
        comfy.samplers.ksampler(name, options) if options else comfy.samplers.sampler_object(name)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the samplers' own noise, at the ends of the run.
        sampler.sampler_function(
            model,
            torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0)),
            sigmas,
            extra_args={"model_options": {}, "seed": 0},
            callback=None,
            disable=True,
            **sampler.extra_options,
        )
    return run, model.calls


@pytest.fixture(scope="module")
def trajectory(pack):
    return pack.guiders.push.memory.Trajectory


def followed(trajectory, calls):
    """For each call, the number and the sigma of the call at which its step starts."""
    starts = []
    for i, sigma in enumerate(calls):
        starts.append(trajectory.before(sigma, LATENT))
        trajectory.visit(sigma, (i, sigma))
    return starts


def on_run(run, sigma):
    """The sigma of the run that is meant, or this one where it lies in between."""
    return next((each for each in run if abs(each - sigma) <= CLOSE * sigma), sigma)


def all_on_run(run, calls):
    first, *others = calls
    # Some begin a flow model's run at 0.9999, where the ratio of signal to noise is finite.
    assert first == pytest.approx(run[0], rel=2e-4)
    return [run[0], *(on_run(run, sigma) for sigma in others)]


@pytest.mark.parametrize("kind", ["noise", "flow"])
@pytest.mark.parametrize("scheduler", ["simple", "karras"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_step_of_every_sampler_starts_at_the_run_s_sigma_above(name, scheduler, kind, trajectory):
    """And there at the latest call, which some samplers make twice."""
    run, seen = sampled(name, kind, scheduler)
    assert len(seen) >= len(run) - 1
    calls = all_on_run(run, seen)
    first, *starts = followed(trajectory(run), seen)
    assert first is None
    for i, start in enumerate(starts, 1):
        above = min(sigma for sigma in run if sigma > calls[i])
        latest = max(j for j in range(i) if calls[j] == above)
        assert start == (latest, seen[latest])


def test_there_are_samplers_that_call_in_between_ahead_and_twice():
    """Without those, the test above would show little."""
    in_between, ahead, twice = set(), set(), set()
    for name in SAMPLERS:
        run, calls = sampled(name)
        calls = all_on_run(run, calls)
        if any(sigma not in run for sigma in calls):
            in_between.add(name)
        if any(later > sigma for sigma, later in pairwise(calls)):
            ahead.add(name)
        if any(later == sigma for sigma, later in pairwise(calls)):
            twice.add(name)
    assert {"dpm_2", "dpmpp_sde", "seeds_2", "seeds_3"} <= in_between
    assert {"heunpp2"} <= ahead
    assert {"heun", "sa_solver_pece", "dpmpp_2s_ancestral"} <= twice


@pytest.mark.parametrize("kind", ["noise", "flow"])
def test_step_of_a_sampler_with_its_own_sigmas_starts_above(kind, trajectory):
    run, calls = sampled("dpm_fast", kind)
    first, *starts = followed(trajectory(run), calls)
    assert first is None
    for sigma, (_, start) in zip(calls[1:], starts, strict=True):
        assert start > sigma


@pytest.mark.parametrize(
    ("name", "calls_a_step", "steps", "churn"),
    [
        ("euler", 1, 7, 0.5),
        ("heun", 2, 7, 0.5),
    ],
)
def test_step_with_churn_starts_where_noise_was_added(name, calls_a_step, steps, churn, trajectory):
    """Each step begins by going up again, which no node of ComfyUI's own asks for."""
    run, calls = sampled(name, steps=steps, s_churn=churn)
    first, *starts = followed(trajectory(run), calls)
    assert first is None
    for i, start in enumerate(starts, 1):
        latest = max(
            j for j in range(i) if j % calls_a_step == 0 and calls[j] > calls[i] * (1 + CLOSE)
        )
        assert start == (latest, calls[latest])


RUN = (10.0, 8.0, 6.0, 4.0, 2.0, 0.0)

# Of each kind of sampler, the calls and the sigmas at which their steps start.
CALLS = {
    "euler": ([10, 8, 6, 4, 2], [None, 10, 8, 6, 4]),
    "heun": ([10, 8, 8, 6, 6, 4], [None, 10, 10, 8, 8, 6]),
    "heunpp2": ([10, 8, 6, 8, 6, 4, 6, 4], [None, 10, 8, 10, 8, 6, 8, 6]),
    "dpm_2": ([10, 9, 8, 7, 6], [None, 10, 10, 8, 8]),
    "seeds_3": ([10, 9.4, 8.7, 8, 7.4, 6.7], [None, 10, 10, 10, 8, 8]),
    "euler with churn": ([11, 8.8, 6.6, 4.4], [None, 11, 8.8, 6.6]),
    "heun with churn": ([11, 8, 8.8, 6, 6.6], [None, 11, 11, 8.8, 8.8]),
    "restart": ([10, 8, 6, 4, 8, 6], [None, 10, 8, 6, 10, 8]),
    "restart with heun": ([10, 8, 8, 6, 6, 4, 8, 6, 6], [None, 10, 10, 8, 8, 6, 10, 8, 8]),
    "restart in between": ([10, 8, 6, 4, 7, 6], [None, 10, 8, 6, 8, 8]),
    "restart above all": ([6, 4, 2, 10, 8], [None, 6, 4, None, 10]),
    "restart from the first": ([10, 12, 8], [None, None, 12]),
    "restart above what is kept": ([10, 8, 6, 4, 2, 9, 8], [None, 10, 8, 6, 4, 8, 9]),
    "run once more": ([10, 8, 6, 4, 2, 10, 8], [None, 10, 8, 6, 4, None, 10]),
    "two restarts": ([10, 8, 6, 10, 8, 10, 8, 6], [None, 10, 8, None, 10, None, 10, 8]),
    "off for a while": ([10, 4, 2], [None, 10, 4]),
    "in between at first": ([9, 8, 6], [None, 9, 8]),
    "one step": ([2], [None]),
    "a step that is almost the same": ([10, 8, 8.0004, 6], [None, 10, 10, 8.0004]),
}


@pytest.mark.parametrize("kind", CALLS)
def test_start_of_each_step(kind, trajectory):
    calls, expected = CALLS[kind]
    starts = followed(trajectory(RUN), calls)
    assert [start and start[1] for start in starts] == expected


def test_order_of_the_sigmas_does_not_matter(trajectory):
    calls, expected = CALLS["dpm_2"]
    assert [start and start[1] for start in followed(trajectory(RUN[::-1]), calls)] == expected


def test_few_states_are_kept(trajectory):
    """Each one may hold a latent."""
    steps = [float(sigma) for sigma in range(1000, 0, -1)]
    one = trajectory(steps)
    followed(one, steps)
    assert len(one._visited) < 10


# What the memory is for


@pytest.mark.parametrize("name", ["heun", "dpm_2", "heunpp2", "seeds_3", "sa_solver_pece"])
def test_momentum_does_not_count_what_was_only_tried(name, pack):
    """The average at each of the run's sigmas is that of the last calls at each one before."""
    beta = -0.6
    run, calls = sampled(name)
    calls = all_on_run(run, calls)
    noise = pack.guiders.push.noise.Noise(False, lambda percent: 1 - percent, sigmas=run)
    shape = pack.guiders.push.shapes.Projected(1.0, 0.0, beta).start(noise)
    generator = torch.Generator().manual_seed(0)
    latest = {}
    for sigma in calls:
        delta = torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64)
        actual = shape(delta, SimpleNamespace(level=sigma, C=delta), 1.0)
        expected = delta
        above = [each for each in run if each > sigma]
        for i, each in enumerate(reversed(above)):
            expected = expected + beta ** (i + 1) * latest[each]
        torch.testing.assert_close(actual, expected)
        latest[sigma] = delta
