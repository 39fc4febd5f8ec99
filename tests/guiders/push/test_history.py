"""A push away from the image's own past: the papers' algorithms, written out in 64 bits."""

import math

import pytest
import torch

SIGMAS = (0.95, 0.8, 0.6, 0.45, 0.2, 0.0)
SHAPE = (4, 6, 9)
SCALE = 2.2


@pytest.fixture(scope="module")
def push(pack):
    return pack.guiders.push


@pytest.fixture(scope="module")
def noise(push):
    return push.noise.Noise(True, lambda percent: 1 - percent, sigmas=SIGMAS)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def path(shape=SHAPE):
    """A noisy latent, its sigma and the sampler's result, for each call of a run."""
    return [
        (random(*shape, seed=2 * i), sigma, random(*shape, seed=2 * i + 1))
        for i, sigma in enumerate(SIGMAS[:-1])
    ]


class Pushed:
    """What a run with a push away from the past gives the sampler, call by call."""

    def __init__(self, push, noise, mode, memory, scale=SCALE, schedules=None):
        history = push.history.History(mode, memory)
        schedules = history.schedules if schedules is None else schedules
        settings = push.push.Push(scale - 1, schedules, history.shapes)
        self._call = push.call.Call
        self._past = history.start(noise)
        self._push = push.push.RunningPush("history", settings, noise)

    def at(self, x, sigma, D):
        call = self._call(x, torch.full((len(x),), sigma, dtype=x.dtype))
        call.C = D
        R = self._past.bad_version(x, call.sigma, sigma, D)
        if R is None or not self._push.is_on(call):
            return D
        call.take("history", R)
        return self._push.add_to(D, call)[0]


def mirrored(image):
    """An image and its reflections, whose Fourier waves are those of the cosine transform."""
    for side in (-2, -1):
        image = torch.cat([image, image.flip(side)], side)
    return image


def only_fine(delta, cutoff=0.05):
    """The HiGS filter, by Fourier transform."""
    height, width = delta.shape[-2:]
    i = torch.fft.fftfreq(2 * height, 1 / (2 * height), dtype=torch.float64).abs() / height
    j = torch.fft.fftfreq(2 * width, 1 / (2 * width), dtype=torch.float64).abs() / width
    gain = torch.sigmoid(50 * (torch.sqrt(i[:, None] ** 2 + j**2) - cutoff))
    filtered = torch.fft.ifft2(torch.fft.fft2(mirrored(delta)) * gain).real
    return filtered[..., :height, :width]


def higs(calls, w, alpha, eta=0.0, t_min=0.4, t_max=1.0):
    """The paper's algorithm, for one sample."""
    g, out = None, []
    for _, t, D in calls:
        if g is None:
            g = alpha * D
            out.append(D)
            continue
        delta = D - g
        along = (delta * D).sum() / (D * D).sum() * D
        delta = only_fine(delta - along + eta * along)
        window = math.sqrt((t - t_min) / (t_max - t_min)) if t_min <= t <= t_max else 0.0
        out.append(D + w * window * delta)
        g = alpha * D + (1 - alpha) * g
    return out


def momentum(calls, alpha, beta):
    """The paper's algorithm, for one sample."""
    m, out = None, []
    for x, sigma, D in calls:
        v = (x - D) / sigma
        is_on = m is not None and 0.3 <= sigma <= 0.95
        out.append(D - alpha * sigma * (v - m) if is_on else D)
        m = v if m is None else (1 - beta) * v + beta * m
    return out


def of_sample(calls, sample):
    return [(x[sample], sigma, D[sample]) for x, sigma, D in calls]


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_is_the_published_algorithm(mode, push, noise):
    calls = path()
    running = Pushed(push, noise, mode, 0.3)
    actual = [running.at(*call) for call in calls]
    for sample in range(2):
        alone = of_sample(calls, sample)
        expected = (
            momentum(alone, SCALE - 1, 0.3)
            if mode == "momentum"
            else higs(alone, SCALE - 1, alpha=0.7)
        )
        for i, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
            torch.testing.assert_close(ours[sample], theirs, rtol=1e-9, atol=1e-9), i
        assert not torch.equal(expected[1], calls[1][2][sample])


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_first_call_of_a_run_has_no_past(mode, push, noise):
    x, sigma, D = path()[0]
    assert Pushed(push, noise, mode, 0.5).at(x, sigma, D) is D


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_what_a_sampler_only_tries_is_no_past(mode, push, noise):
    """As Heun's method calls ahead at the next sigma, and then comes there from elsewhere."""
    first, second, third, *_ = path()
    kept, tried = (Pushed(push, noise, mode, 0.5) for _ in range(2))
    for call in (first, second):
        kept.at(*call)
    tried.at(*first)
    tried.at(third[0], second[1], third[2])
    tried.at(*second)
    assert torch.equal(kept.at(*third), tried.at(*third))


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_latent_of_another_size_has_no_past(mode, push, noise):
    running = Pushed(push, noise, mode, 0.5)
    running.at(*path()[0])
    x, sigma, D = path((4, 12, 18))[1]
    assert running.at(x, sigma, D) is D
    later = path((4, 12, 18))[2]
    assert not torch.equal(running.at(*later), later[2])


@pytest.mark.parametrize("mode", ["momentum", "average"])
def test_past_is_remembered_where_the_push_is_off(mode, push, noise):
    """Memory and schedule are apart: off at the second call changes nothing at the third."""
    off_once = push.schedules.Curve(((0.9, 1.0), (0.85, 0.0), (0.7, 1.0)), True, "steps")
    always = Pushed(push, noise, mode, 0.5, schedules=())
    once = Pushed(push, noise, mode, 0.5, schedules=(off_once,))
    first, second, third, *_ = path()
    for running in (always, once):
        running.at(*first)
    assert once.at(*second) is second[2] and always.at(*second) is not second[2]
    assert torch.equal(always.at(*third), once.at(*third))


@pytest.mark.parametrize("shape", [(4, 6, 9), (4, 3, 6, 9), (1, 5, 1)])
def test_filter_is_that_of_the_fourier_transform(shape, push):
    delta = random(*shape)
    actual = push.formulas.high_passed(delta, 0.4)
    torch.testing.assert_close(actual, only_fine(delta, 0.4), rtol=1e-9, atol=1e-9)


def test_filter_of_sound_goes_along_its_length(push):
    delta = random(3, 12)
    expected = only_fine(delta[:, :, None], 0.4)[:, :, 0]
    actual = push.formulas.high_passed(delta, 0.4)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert push.formulas.high_passed(delta.half(), 0.4).dtype == torch.float16


def test_window_is_a_share_of_noise_for_either_kind_of_model(push):
    flow = push.noise.Noise(True, lambda percent: 1 - percent**2)
    other = push.noise.Noise(False, lambda percent: 10 * (1 - percent))
    fading = push.schedules.NoiseWindow(1.0, 0.4, fades=True)
    plain = push.schedules.NoiseWindow(0.95, 0.3, fades=False)
    for noise, unit in ((flow, 1), (other, 10)):
        assert fading.factor(0.7 * unit, noise) == pytest.approx(math.sqrt(0.5), abs=1e-6)
        assert fading.factor(unit, noise) == pytest.approx(1.0, abs=1e-6)
        assert fading.factor(0.39 * unit, noise) == 0.0
        at = [plain.factor(t * unit, noise) for t in (0.96, 0.94, 0.31, 0.29)]
        assert at == [0.0, 1.0, 1.0, 0.0]
