"""Latents that have parts: whatever is measured and remembered is of one part alone."""

import math

import pytest
import torch

SIGMAS = (9.0, 4.0, 1.0, 0.0)
# A video and its sound, which is short and loud.
PARTS = ((4, 3, 6, 8), (2, 5, 7))
STRENGTH = 1.5


@pytest.fixture(scope="module")
def push(pack):
    return pack.guiders.push


def noise_with(push, parts):
    return push.noise.Noise(False, lambda percent: 10 * (1 - percent), sigmas=SIGMAS, parts=parts)


def random(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def predictions(shape, step, size):
    """``x``, ``C``, and what else is predicted, by name."""
    noise, C, R, N, U = (random(shape, 10 * step + of) * size for of in range(5))
    return C + 2 * noise, C, {"weak": C + 0.4 * R, "negative": C + 0.3 * N, "empty": U}


SHAPES = {
    "APG": lambda s: s.Projected(0.2, 1.5, -0.5),
    "Reject": lambda s: s.Reject("different"),
    "Reject, common": lambda s: s.Reject("common"),
    "Cap": lambda s: s.Cap(1.5, False),
    "Cap of the other push": lambda s: s.Cap(0.7, True),
    "Rescale": lambda s: s.Rescale(0.7),
    "ZeroStar": lambda s: s.ZeroStar(),
    "PerpNeg": lambda s: s.PerpNeg([], 0.8, "empty"),
    "Frequency": lambda s: s.Frequency(0.3, 1.4, 1),
}
SCHEDULES = {
    "distance": lambda s: s.DistanceCalibrated(0.3, 50.0, 0.0),
    "dynamic": lambda s: s.DynamicNegative(0.2, 1.0, True, 0.3, 1e-6, 0.8),
    "fixed": lambda s: s.Ramp("rising", "linear", 0.5, 2.0, 0.0, 1.0, 1.0),
}
PUSHES = [(name, None) for name in SHAPES] + [(None, name) for name in SCHEDULES]
PUSHES += [("Rescale", "distance"), ("PerpNeg", "dynamic")]


def settings(push, shape, schedule):
    return push.push.Push(
        STRENGTH,
        (SCHEDULES[schedule](push.schedules),) if schedule else (),
        (SHAPES[shape](push.shapes),) if shape else (),
    )


def guided(push, running, step, x, C, named):
    call = push.call.Call(x, x.new_full((2,), SIGMAS[step]))
    call.C = C
    for name, prediction in named.items():
        call.take(name, prediction)
    return running.add_to(C, call)


@pytest.mark.parametrize(("shape", "schedule"), PUSHES)
def test_each_part_is_pushed_as_if_it_were_alone(shape, schedule, push):
    """Over all steps of a run, since some of them remember something."""
    asked = settings(push, shape, schedule)
    running = push.push.RunningPush("weak", asked, noise_with(push, PARTS), ["negative"])
    alone = [
        push.push.RunningPush("weak", asked, noise_with(push, ()), ["negative"]) for _ in PARTS
    ]
    join = push.parts.join
    for step in range(3):
        given = [predictions(of, step, size) for of, size in zip(PARTS, (1.0, 6.0), strict=True)]
        xs, Cs, named = zip(*given, strict=True)
        rows = {name: join([each[name] for each in named]) for name in named[0]}
        actual, pushed = guided(push, running, step, join(xs), join(Cs), rows)
        each = [guided(push, one, step, *of) for one, of in zip(alone, given, strict=True)]
        torch.testing.assert_close(actual, join([guided for guided, _ in each]))
        assert pushed.R is rows["weak"]
        torch.testing.assert_close(pushed.delta, join([of_part.delta for _, of_part in each]))


def test_measures_of_the_row_would_be_others(push):
    """Without which the test above would show little."""
    asked = settings(push, "Cap", None)
    given = [predictions(of, 0, size) for of, size in zip(PARTS, (1.0, 6.0), strict=True)]
    xs, Cs, named = zip(*given, strict=True)
    join = push.parts.join
    rows = {name: join([each[name] for each in named]) for name in named[0]}
    actual = [
        guided(push, push.push.RunningPush("weak", asked, noise_with(push, parts)), 0, *row)[0]
        for parts, row in ((PARTS, (join(xs), join(Cs), rows)), ((), (join(xs), join(Cs), rows)))
    ]
    assert not torch.allclose(*actual)


def test_row_is_split_as_comfyui_joins_it(push):
    parts = [random(shape, seed) for seed, shape in enumerate(PARTS)]
    row = push.parts.join(parts)
    assert row.shape == (2, 1, sum(map(math.prod, PARTS)))
    assert all(map(torch.equal, push.parts.split(row, PARTS), parts))
    assert push.parts.split(row, PARTS)[0].data_ptr() == row.data_ptr(), "no copy is made"


def test_numbers_of_parts_and_their_mean(push):
    join_by_sample, by_sample = push.parts.join_by_sample, push.parts.by_sample
    small = ((1, 3), (1,))
    assert join_by_sample([0.7, 0.7], small) == 0.7
    of_parts = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 10.0])]
    row = join_by_sample(of_parts, small)
    assert row.tolist() == [[[1, 1, 1, 5]], [[2, 2, 2, 10]]]
    assert by_sample(row).tolist() == [2, 4]
    assert by_sample(0.7) == 0.7 and by_sample(None) is None
    assert by_sample(of_parts[0]) is of_parts[0]


def test_part_without_height_and_width_is_named(push, pack):
    parts = ((4, 6, 8), (2, 40))
    running = push.push.RunningPush(
        "weak", settings(push, "Frequency", None), noise_with(push, parts)
    )
    xs, Cs, named = zip(*(predictions(of, 0, 1.0) for of in parts), strict=True)
    rows = {name: push.parts.join([each[name] for each in named]) for name in named[0]}
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"Frequency Shape.*\(2, 2, 40\)"):
        guided(push, running, 0, push.parts.join(xs), push.parts.join(Cs), rows)


def test_region_is_one_of_the_picture(push, pack):
    """Sound beside it may have two sides as well, which are no height and width of a place."""
    mask = torch.zeros(1, 12, 16, dtype=torch.float64)
    mask[..., :8] = 1
    asked = push.push.Push(STRENGTH, (), (push.shapes.Region(mask, 0, 0.25),))
    for sound in ((2, 5, 7), (2, 40)):
        parts = ((4, 3, 6, 8), sound)
        running = push.push.RunningPush("weak", asked, noise_with(push, parts))
        xs, Cs, named = zip(*(predictions(of, 0, 1.0) for of in parts), strict=True)
        rows = {name: push.parts.join([each[name] for each in named]) for name in named[0]}
        _, pushed = guided(push, running, 0, push.parts.join(xs), push.parts.join(Cs), rows)
        picture, of_sound = push.parts.split(pushed.delta, parts)
        deltas = [C - each["weak"] for C, each in zip(Cs, named, strict=True)]
        torch.testing.assert_close(picture[..., :4], deltas[0][..., :4])
        torch.testing.assert_close(picture[..., 4:], 0.25 * deltas[0][..., 4:])
        torch.testing.assert_close(of_sound, deltas[1])
    parts = ((3, 20), (2, 40))
    running = push.push.RunningPush("weak", asked, noise_with(push, parts))
    xs, Cs, named = zip(*(predictions(of, 0, 1.0) for of in parts), strict=True)
    rows = {name: push.parts.join([each[name] for each in named]) for name in named[0]}
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"Region Shape.*\(2, 3, 20\)"):
        guided(push, running, 0, push.parts.join(xs), push.parts.join(Cs), rows)
