"""The formulas and shapes alone, against the papers' own way of writing them, and at the edges."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Given(NamedTuple):
    """What any of the formulas may ask for."""

    delta: Tensor
    C: Tensor
    other: Tensor
    x: Tensor
    U: Tensor

    def map(self, function):
        return Given(*map(function, self))

    def with_one(self, name, function):
        return self._replace(**{name: function(getattr(self, name))})


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def given(*shape):
    """Predictions that have something in common, as those of real models do."""
    C, R, R2, U, noise = random(5, *shape)
    R, R2, U = C + 0.4 * R, C + 0.3 * R2, 0.8 * C + 0.5 * U
    return Given(C - R, C, C - R2, C + 2 * noise, U)


SMALL = (3, 4, 6, 8)

# Each one takes the module, what is given and the strength.
FORMULAS = {
    "projected": lambda f, a, e: f.projected(a.delta, a.C, 0.2),
    "with_momentum": lambda f, a, e: f.with_momentum(a.delta, a.other, -0.5),
    "with_momentum, first step": lambda f, a, e: f.with_momentum(a.delta, None, -0.5),
    "capped": lambda f, a, e: f.capped(a.delta, 1.5),
    "capped by sample": lambda f, a, e: f.capped(a.delta, 0.7 * f.norm(a.other)),
    "rejected": lambda f, a, e: f.rejected(a.delta, a.other),
    "kept_along": lambda f, a, e: f.kept_along(a.delta, a.other),
    "rescaled": lambda f, a, e: f.rescaled(a.delta, a.C, e, 0.7),
    "zero_star": lambda f, a, e: f.zero_star(a.delta, a.x, a.C),
    "perp_neg": lambda f, a, e: f.perp_neg(a.delta, a.C, a.U, e, 0.8),
    "frequencies": lambda f, a, e: f.frequencies(a.delta, 0.3, 1.4, 2),
}


@pytest.fixture(scope="module")
def formulas(pack):
    return pack.guiders.push.formulas


@pytest.fixture(params=FORMULAS)
def formula(request, formulas):
    return lambda a, strength: FORMULAS[request.param](formulas, a, strength)


# Pushes


def test_one_push_is_autoguidance(formulas):
    C, W = random(2, *SMALL)
    torch.testing.assert_close(formulas.add_push(C, C - W, 0.7), W + 1.7 * (C - W))


def test_two_pushes_have_the_total_and_mix_of_the_paper(formulas):
    """2406.02507, appendix B.2: total g, of which the share α goes to autoguidance."""
    C, N, W = random(3, *SMALL)
    g, alpha = 2.5, 0.3
    s, w = 1 + (g - 1) * (1 - alpha), 1 + (g - 1) * alpha
    guided = formulas.add_push(N + s * (C - N), C - W, w - 1)
    torch.testing.assert_close(guided, C + (g - 1) * ((1 - alpha) * (C - N) + alpha * (C - W)))


def test_pushes_add_in_any_order(formulas):
    C, one, two = random(3, *SMALL)
    either = formulas.add_push(formulas.add_push(C, one, 2.0), two, -0.8)
    other = formulas.add_push(formulas.add_push(C, two, -0.8), one, 2.0)
    torch.testing.assert_close(either, other)
    torch.testing.assert_close(either, C + 2.0 * one - 0.8 * two)


@pytest.mark.parametrize("strength", [0.0, torch.zeros(3)])
def test_no_strength_adds_nothing(strength, formulas):
    guided, delta = random(2, *SMALL)
    assert torch.equal(formulas.add_push(guided, delta, strength), guided)


def test_scale_zero_is_the_bad_version(formulas):
    C, R = random(2, *SMALL)
    torch.testing.assert_close(formulas.add_push(C, C - R, -1.0), R)


def test_each_sample_has_its_own_strength(formulas):
    C, delta = random(2, *SMALL)
    strengths = torch.tensor([-0.5, 0.0, 6.0], dtype=torch.float64)
    together = formulas.add_push(C, delta, strengths)
    for i, strength in enumerate(strengths.tolist()):
        alone = formulas.add_push(C[i : i + 1], delta[i : i + 1], strength)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strength", [1.5, torch.tensor([-0.5, 0.0, 1.5])])
def test_push_keeps_the_dtype(strength, dtype, formulas):
    C, delta = random(2, *SMALL).to(dtype)
    assert formulas.add_push(C, delta, strength).dtype == dtype


def test_push_leaves_its_arguments_as_they_are(formulas):
    C, delta = arguments = random(2, *SMALL)
    before = arguments.clone()
    for strength in (1.0, torch.tensor([-0.5, 0.0, 1.5])):
        formulas.add_push(C, delta, strength)
    assert torch.equal(arguments, before)


# Each formula as its paper writes it


def along(a, v):
    """The part of each sample of ``a`` along ``v``, by least squares."""
    flat_a, flat_v = a.flatten(1)[..., None], v.flatten(1)[..., None]
    return (flat_v @ torch.linalg.lstsq(flat_v, flat_a).solution).view_as(a)


@pytest.mark.parametrize("eta", [-1.0, 0.0, 0.3, 1.0])
def test_projected(eta, formulas):
    a = given(*SMALL)
    parallel = along(a.delta, a.C)
    expected = a.delta - parallel + eta * parallel
    torch.testing.assert_close(formulas.projected(a.delta, a.C, eta), expected)


def test_momentum_is_a_sum_over_the_steps(formulas):
    deltas = random(4, *SMALL)
    average = None
    for delta in deltas:
        average = formulas.with_momentum(delta, average, -0.6)
    weights = [(-0.6) ** (len(deltas) - 1 - i) for i in range(len(deltas))]
    expected = sum(w * delta for w, delta in zip(weights, deltas, strict=True))
    torch.testing.assert_close(average, expected)


def test_capped_shortens_only_what_is_too_long(formulas):
    delta = random(*SMALL)
    delta *= (torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64) / formulas.norm(delta)).view(
        3, 1, 1, 1
    )
    out = formulas.capped(delta, 2.0)
    assert torch.equal(out[:2], delta[:2])
    torch.testing.assert_close(out[2], delta[2] * 0.2)
    limits = torch.tensor([0.05, 3.0, 5.0], dtype=torch.float64)
    expected = torch.tensor([0.05, 1.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(formulas.norm(formulas.capped(delta, limits)), expected)


def test_rejected_and_kept_are_the_two_parts(formulas):
    a = given(*SMALL)
    kept, rejected = formulas.kept_along(a.delta, a.other), formulas.rejected(a.delta, a.other)
    torch.testing.assert_close(kept, along(a.delta, a.other))
    torch.testing.assert_close(kept + rejected, a.delta)
    across = formulas.dot(rejected, a.other)
    assert (across.abs() < 1e-12 * formulas.norm(a.delta) * formulas.norm(a.other)).all()


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("strength", [-0.5, 2.5])
def test_rescaled(strength, phi, formulas):
    """2305.08891, eq. 15 and 16, on the guided prediction."""
    a = given(*SMALL)
    guided = a.C + strength * a.delta
    std = a.C.std((1, 2, 3), keepdim=True), guided.std((1, 2, 3), keepdim=True)
    expected = phi * guided * (std[0] / std[1]) + (1 - phi) * guided
    shaped = formulas.rescaled(a.delta, a.C, strength, phi)
    torch.testing.assert_close(formulas.add_push(a.C, shaped, strength), expected)


def test_full_rescale_keeps_the_contrast(formulas):
    a = given(*SMALL)
    shaped = formulas.rescaled(a.delta, a.C, 4.0, 1.0)
    guided = formulas.add_push(a.C, shaped, 4.0)
    torch.testing.assert_close(guided.std((1, 2, 3)), a.C.std((1, 2, 3)))


@pytest.mark.parametrize("sigma", [0.05, 1.0, 14.6])
def test_zero_star_is_the_paper_s_on_velocities(sigma, formulas):
    """At any noise level: sigma cancels out of the fit."""
    a = given(*SMALL)
    v_C, v_R = (a.x - a.C) / sigma, (a.x - (a.C - a.delta)) / sigma
    velocity = v_C + 1.5 * (v_C - along(v_C, v_R))
    guided = formulas.add_push(a.C, formulas.zero_star(a.delta, a.x, a.C), 1.5)
    torch.testing.assert_close(guided, a.x - sigma * velocity)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 7.5])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_perp_neg(weight, scale, formulas):
    """2304.04968, with the components relative to the empty prompt."""
    a = given(*SMALL)
    P, Q = a.C - a.U, (a.C - a.delta) - a.U
    expected = a.U + scale * (P - weight * (Q - along(Q, P)))
    shaped = formulas.perp_neg(a.delta, a.C, a.U, scale - 1, weight)
    torch.testing.assert_close(formulas.add_push(a.C, shaped, scale - 1), expected)


def test_norm_and_dot_run_over_all_but_the_batch(formulas):
    a, b = random(2, 3, 4, 2, 5, 6)
    rows = [(x.numpy().ravel(), y.numpy().ravel()) for x, y in zip(a, b, strict=True)]
    expected = torch.tensor([math.sqrt(x @ x) for x, _ in rows], dtype=torch.float64)
    torch.testing.assert_close(formulas.norm(a), expected)
    expected = torch.tensor([x @ y for x, y in rows], dtype=torch.float64)
    torch.testing.assert_close(formulas.dot(a, b), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lengths_in_half_precision_have_room(dtype, formulas):
    """The length of a large latent does not fit into 16 bits."""
    a = torch.full((1, 16, 128, 128), 300.0, dtype=dtype)
    length, square = formulas.norm(a), formulas.dot(a, a)
    assert length.dtype == square.dtype == torch.float32
    value = float(a[0, 0, 0, 0])
    assert float(length) == pytest.approx(512 * value, rel=1e-3)
    assert float(square) == pytest.approx((512 * value) ** 2, rel=1e-3)


# Frequencies

SIZES = [(1, 1), (1, 5), (2, 3), (3, 3), (7, 9), (16, 16), (17, 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_frequencies_of_one_and_one_are_the_identity(levels, size, formulas):
    for shape in ((2, 3, *size), (2, 3, 4, *size)):
        delta = random(*shape)
        actual = formulas.frequencies(delta, 1.0, 1.0, levels)
        torch.testing.assert_close(actual, delta, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_frequencies_are_linear_in_both_factors(levels, size, formulas):
    delta = random(2, 3, *size)
    low = formulas.frequencies(delta, 1.0, 0.0, levels)
    high = formulas.frequencies(delta, 0.0, 1.0, levels)
    torch.testing.assert_close(low + high, delta)
    actual = formulas.frequencies(delta, 0.3, 1.7, levels)
    torch.testing.assert_close(actual, 0.3 * low + 1.7 * high)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("levels", [1, 3])
def test_an_even_push_is_coarse(levels, size, formulas):
    """Whatever the borders do, a constant must stay one."""
    delta = torch.full((1, 2, *size), 1.7, dtype=torch.float64)
    actual = formulas.frequencies(delta, 0.25, 5.0, levels)
    torch.testing.assert_close(actual, 0.25 * delta)


def test_fine_and_coarse_patterns_are_told_apart(formulas):
    """A chessboard is fine at any level; a wave over 16 pixels is coarse at one level."""
    line = torch.arange(32, dtype=torch.float64)
    chessboard = (1 - 2 * ((line[:, None] + line) % 2)).expand(1, 1, 32, 32)
    assert formulas.frequencies(chessboard, 1.0, 0.0, 1).abs().max() < 0.01
    wave = torch.cos(2 * math.pi * (line + 0.5) / 16).expand(1, 1, 32, 32)
    assert formulas.frequencies(wave, 0.0, 1.0, 1).norm() < 0.3 * wave.norm()
    assert formulas.frequencies(wave, 1.0, 0.0, 3).norm() < 0.3 * wave.norm()


def test_frames_of_a_video_have_frequencies_of_their_own(formulas):
    video = random(2, 3, 4, 6, 10)
    actual = formulas.frequencies(video, 0.3, 1.4, 2)
    for frame in range(4):
        picture = formulas.frequencies(video[:, :, frame], 0.3, 1.4, 2)
        torch.testing.assert_close(actual[:, :, frame], picture)


# Regions


def as_loops(mask, height, width, feather, outside):
    """One mask on one latent whose sides divide its own, pixel by pixel in Python's numbers."""
    rows, columns = mask.shape
    reach = feather // 2
    pixels_of = mask.tolist()

    def soft(row, column):
        around = [
            pixels_of[min(max(i, 0), rows - 1)][min(max(j, 0), columns - 1)]
            for i in range(row - reach, row + reach + 1)
            for j in range(column - reach, column + reach + 1)
        ]
        return math.fsum(around) / len(around)

    high, wide = rows // height, columns // width

    def place(i, j):
        pixels = [
            soft(row, column)
            for row in range(i * high, (i + 1) * high)
            for column in range(j * wide, (j + 1) * wide)
        ]
        inside = math.fsum(pixels) / len(pixels)
        return outside * (1 - inside) + inside

    return torch.tensor(
        [[place(i, j) for j in range(width)] for i in range(height)], dtype=torch.float64
    )


def some_masks(*shape, seed=5):
    """Of all greys, with black and white."""
    return (random(*shape, seed=seed) + 0.5).clamp(0, 1)


@pytest.mark.parametrize("outside", [0.0, 0.3])
@pytest.mark.parametrize("feather", [0, 1, 4, 9, 40])
def test_region_is_that_of_loops(feather, outside, formulas):
    masks = some_masks(2, 12, 16)
    expected = [as_loops(mask, 3, 2, feather, outside) for mask in masks]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        weight = formulas.region(masks.to(dtype), (2, 4, 3, 2), feather, outside)
        assert weight.shape == (2, 1, 3, 2) and weight.dtype == dtype
        torch.testing.assert_close(
            weight[:, 0].double(), torch.stack(expected), atol=tolerance, rtol=0
        )


def test_line_thinner_than_a_place_keeps_its_weight(formulas):
    """Wherever it lies, and if the sides of the latent do not divide those of the mask."""
    for at in range(64):
        mask = torch.zeros(1, 64, 40)
        mask[:, at] = 1
        assert formulas.region(mask, (1, 4, 8, 5)).sum(-2).allclose(torch.tensor(1 / 8))
        assert 0.09 < formulas.region(mask, (1, 4, 7, 5)).sum(-2).min() < 0.22


def test_small_mask_is_enlarged_in_straight_lines(formulas):
    mask = torch.tensor([[[0.0, 1.0]]])
    weight = formulas.region(mask, (1, 4, 3, 4))
    assert weight.tolist() == [[[[0.0, 0.25, 0.75, 1.0]] * 3]]
    # Enlarged one way, and averaged the other.
    mask = torch.tensor([[[0.0, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]])
    assert formulas.region(mask, (1, 4, 4, 2))[0, 0, :, 0].tolist() == [0.25, 0.4375, 0.8125, 1.0]


def test_mask_of_the_latent_s_size_stays_as_it_is(formulas):
    mask = some_masks(1, 6, 8).float()
    assert torch.equal(formulas.region(mask, (1, 4, 6, 8))[0], mask)
    assert torch.equal(formulas.region(mask.half(), (1, 4, 6, 8))[0], mask.half().float())
    beyond = torch.tensor([[[-0.5, 0.5, 1.5]]])
    assert formulas.region(beyond, (1, 4, 1, 3)).flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("feather", [2, 3, 10, 33])
def test_soft_edge_is_as_wide_as_asked_for(feather, formulas):
    mask = torch.zeros(1, 3, 200)
    mask[..., 100:] = 1
    (row, *others) = formulas.feathered(mask, feather)[0]
    assert all(torch.equal(row, other) for other in others), "the border is no edge"
    between = ((row > 0) & (row < 1)).nonzero().flatten()
    assert len(between) == feather // 2 * 2
    assert between.double().mean() == 99.5, "half of it is inside"
    assert row.diff().max() - row.diff()[between[1:] - 1].min() < 1e-6, "in a straight line"
    assert bool((row[: between[0]] == 0).all() and (row[between[-1] + 1 :] == 1).all())


@pytest.mark.parametrize("outside", [0.0, 0.1, 0.3, 0.7])
@pytest.mark.parametrize("feather", [0, 7, 512])
def test_white_far_and_wide_is_all_of_the_push(feather, outside, formulas):
    weight = formulas.region(torch.ones(1, 250, 333), (1, 4, 31, 41), feather, outside)
    assert weight.shape == (1, 1, 31, 41) and bool((weight == 1).all())
    weight = formulas.region(torch.zeros(1, 250, 333), (1, 4, 31, 41), feather, outside)
    torch.testing.assert_close(weight, torch.full_like(weight, outside), atol=0, rtol=1e-6)


def grey(*values):
    """A mask for each value."""
    return torch.tensor(values)[:, None, None].expand(-1, 16, 16)


@pytest.mark.parametrize(
    ("masks", "batch", "expected"),
    [
        ((0.5,), 3, [0.5]),
        ((0.0, 0.5, 1.0), 3, [0.0, 0.5, 1.0]),
        ((0.0, 1.0), 5, [0.0, 1.0, 0.0, 1.0, 0.0]),
        ((0.0, 0.5, 1.0), 2, [0.0, 0.5]),
    ],
)
@pytest.mark.parametrize("frames", [(), (1,)], ids=["image", "one frame"])
def test_masks_are_shared_out_over_a_batch(frames, masks, batch, expected, formulas):
    weight = formulas.region(grey(*masks), (batch, 4, *frames, 2, 2))
    assert weight.shape == (len(expected), 1, *frames, 2, 2)
    assert weight[..., 0, 0].flatten().tolist() == expected


@pytest.mark.parametrize(
    ("masks", "frames", "expected"),
    [
        ((0.5,), 3, [0.5]),
        ((0.0, 0.5, 1.0), 3, [0.0, 0.5, 1.0]),
        # One mask an image, where one latent frame is the first, then four images each.
        ((1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0), 3, [1.0, 0.5, 0.25]),
        ((1.0, 0.0, 0.5), 2, [1.0, 0.25]),
        # What fits to nothing is stretched.
        ((0.0, 1.0), 4, [0.0, 0.25, 0.75, 1.0]),
        ((0.0, 0.0, 1.0, 1.0, 0.5, 0.5), 3, [0.0, 1.0, 0.5]),
    ],
)
def test_masks_are_shared_out_over_the_frames_of_a_video(masks, frames, expected, formulas):
    weight = formulas.region(grey(*masks), (2, 4, frames, 2, 2))
    assert weight.shape == (1, 1, len(expected), 2, 2), "the same for all samples"
    assert weight[0, 0, :, 1, 1].tolist() == expected


# What holds for all of them


def test_scale_one_is_the_identity(formula, formulas):
    a = given(*SMALL)
    for strength in (0.0, torch.zeros(3, dtype=torch.float64)):
        shaped = formula(a, strength)
        assert torch.equal(formulas.add_push(a.C, shaped, strength), a.C)


@pytest.mark.parametrize("shape", [SMALL, (3, 2, 3, 5, 7)])
def test_a_batch_is_many_batches_of_one(shape, formula):
    a = given(*shape)
    together = formula(a, 1.5)
    assert together.shape == a.delta.shape
    for i in range(len(together)):
        alone = formula(a.map(lambda t, i=i: t[i : i + 1]), 1.5)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_scales_of_samples_are_those_of_samples_alone(formula):
    a = given(*SMALL)
    strengths = torch.tensor([0.5, -0.3, 8.0], dtype=torch.float64)
    together = formula(a, strengths)
    for i, strength in enumerate(strengths.tolist()):
        alone = formula(a.map(lambda t, i=i: t[i : i + 1]), strength)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_kept_and_its_precision_used(dtype, formula):
    a = given(3, 4, 16, 16)
    scales = torch.tensor([0.5, -0.3, 8.0])
    for strength in (2.0, scales):
        actual = formula(a.map(lambda t: t.to(dtype)), strength)
        exact = formula(a.map(lambda t: t.to(dtype).double()), strength)
        assert actual.dtype == dtype
        error = (actual.double() - exact).norm() / exact.norm()
        # A difference of two predictions is rounded to begin with.
        assert error < 8 * max(torch.finfo(dtype).eps, 1e-8)


def test_device_is_kept(formula, formulas):
    """A tensor that is made on another device would not go together with these."""
    a = given(*SMALL).map(lambda t: t.to("meta"))
    for strength in (2.0, torch.ones(3, device="meta")):
        shaped = formula(a, strength)
        assert shaped.device.type == "meta"
        assert formulas.add_push(a.C, shaped, strength).device.type == "meta"


def test_arguments_stay_as_they_are(formula):
    a = given(*SMALL)
    strength = torch.full((3,), 2.0, dtype=torch.float64)
    before = a.map(Tensor.clone)
    formula(a, 2.0)
    formula(a, strength)
    assert all(map(torch.equal, a, before))
    assert (strength == 2.0).all()


# Of each dtype, what a push or a prediction may be, with room for the result.
EXTREMES = {
    torch.float16: {"zero": 0.0, "tiny": 2.0**-14, "huge": 100.0},
    torch.bfloat16: {"zero": 0.0, "tiny": 1e-30, "huge": 1e15},
    torch.float32: {"zero": 0.0, "tiny": 1e-30, "huge": 1e15},
    torch.float64: {"zero": 0.0, "tiny": 1e-300, "huge": 1e100},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extreme", ["zero", "tiny", "huge"])
def test_no_extreme_gives_nan(extreme, dtype, formula):
    a = given(*SMALL).map(lambda t: t.to(dtype))

    def to_extreme(t):
        return t * EXTREMES[dtype][extreme]

    cases = [a.with_one(name, to_extreme) for name in a._fields]
    # Without a push, the prediction is that of the bad version, the empty prompt and all else.
    cases += [a.map(to_extreme), a._replace(U=a.C), a._replace(U=a.C - a.delta, other=a.delta)]
    # Some formulas divide by it.
    least = 1e-6 if dtype != torch.float16 else 1e-2
    for case in cases:
        for strength in (2.0, 0.0, torch.tensor([0.0, least, 4.0])):
            assert formula(case, strength).isfinite().all()


def test_nothing_lies_along_nothing(formulas):
    delta, zero = random(*SMALL), torch.zeros(SMALL, dtype=torch.float64)
    assert torch.equal(formulas.projected(delta, zero, 0.0), delta)
    assert torch.equal(formulas.rejected(delta, zero), delta)
    assert torch.equal(formulas.kept_along(delta, zero), zero)


def test_tiny_directions_are_directions(formulas):
    """Their squares would round to zero."""
    delta, other = random(2, *SMALL)
    expected = formulas.rejected(delta, other)
    torch.testing.assert_close(formulas.rejected(delta, other * 1e-150), expected)
    torch.testing.assert_close(formulas.rejected(delta, other * 1e150), expected)


# Posterior of the negative prompt

TEMPERATURE, OFFSET = 0.2, 2e-4


def posterior_ve(p, x, sigma, C, N, x_next, sigma_next):
    """2410.14398, algorithm 2, written out, each sample alone."""
    posteriors = []
    for i in range(len(p)):
        s, s_next = float(sigma[i]), float(sigma_next[i])
        keep = s_next**2 / s**2
        to_N = (x_next[i] - (N[i] + keep * (x[i] - N[i]))).pow(2).sum()
        to_C = (x_next[i] - (C[i] + keep * (x[i] - C[i]))).pow(2).sum()
        variance = s_next**2 * (s**2 - s_next**2) / s**2
        exponent = (-TEMPERATURE * (to_N - to_C) + OFFSET) / (2 * variance)
        posteriors.append(p[i] * exponent.exp())
    return torch.stack(posteriors)


@pytest.fixture
def transition():
    """A step of three samples, each one at its own noise level."""
    C, N, noise, x_next = random(4, *SMALL)
    sigma = torch.tensor([9.0, 1.3, 0.7], dtype=torch.float64)
    sigma_next = torch.tensor([5.0, 1.1, 0.2], dtype=torch.float64)
    N = C + 0.1 * N
    x = C + sigma.view(-1, 1, 1, 1) * noise
    x_next = C + sigma_next.view(-1, 1, 1, 1) * (noise + 0.1 * x_next)
    p = torch.tensor([0.01, 0.3, 0.6], dtype=torch.float64)
    return p, x, sigma, C, N, x_next, sigma_next


def settings(**others):
    return {"temperature": TEMPERATURE, "offset": OFFSET, "flow": False, **others}


def test_posterior_is_that_of_the_paper(transition, formulas):
    actual = formulas.posterior_of_negative(*transition, **settings())
    expected = posterior_ve(*transition)
    assert ((expected / transition[0] - 1).abs() > 1e-3).all()
    torch.testing.assert_close(actual, expected)


def test_posterior_of_a_flow_model_is_that_of_its_noise_level(transition, formulas):
    """x/(1 − t) has the noise t/(1 − t)."""
    p, x, sigma, C, N, x_next, sigma_next = transition
    t, t_next = sigma / (1 + sigma), sigma_next / (1 + sigma_next)
    flow_x = x * (1 - t).view(-1, 1, 1, 1)
    flow_x_next = x_next * (1 - t_next).view(-1, 1, 1, 1)
    actual = formulas.posterior_of_negative(
        p, flow_x, t, C, N, flow_x_next, t_next, **settings(flow=True)
    )
    torch.testing.assert_close(actual, posterior_ve(*transition))


def test_posterior_at_the_start_of_a_flow_model_is_the_limit(formulas):
    """At t = 1 the noise has no end; the posterior has."""
    C, N, x, x_next = random(4, *SMALL)
    N = C + 0.1 * N

    def from_time(start):
        t = torch.full((3,), start, dtype=torch.float64)
        t_next = torch.full((3,), 0.8, dtype=torch.float64)
        p = torch.full((3,), 0.01, dtype=torch.float64)
        return formulas.posterior_of_negative(p, x, t, C, N, x_next, t_next, **settings(flow=True))

    assert from_time(1.0).isfinite().all()
    torch.testing.assert_close(from_time(1.0), from_time(1 - 1e-9), rtol=1e-6, atol=0)


@pytest.mark.parametrize("flow", [False, True])
def test_posterior_of_equal_predictions_moves_by_the_offset_alone(flow, formulas):
    C, x, x_next = random(3, *SMALL)
    p, t, t_next = torch.tensor([[0.01, 0.2, 0.7], [0.9] * 3, [0.6] * 3], dtype=torch.float64)
    no_offset = settings(flow=flow, offset=0.0)
    same = formulas.posterior_of_negative(p, x, t, C, C, x_next, t_next, **no_offset)
    torch.testing.assert_close(same, p)
    more = formulas.posterior_of_negative(p, x, t, C, C, x_next, t_next, **settings(flow=flow))
    assert (more > p).all()


def test_posterior_rises_where_the_step_goes_to_the_negative_prompt(transition, formulas):
    p, x, sigma, C, N, _, sigma_next = transition
    keep = (sigma_next / sigma).pow(2).view(-1, 1, 1, 1)
    for end, sign in ((N, 1), (C, -1)):
        x_next = end + keep * (x - end)
        after = formulas.posterior_of_negative(
            p, x, sigma, C, N, x_next, sigma_next, **settings(offset=0.0)
        )
        assert (sign * (after - p) > 0).all()


def test_posterior_in_32_bits_is_not_rounded_away(formulas):
    """Late steps of a large latent: two squares of 1e5 differ by less than what is left of them."""
    C, N, noise, more = random(4, 2, 16, 64, 64)
    N = C + 1e-3 * N
    sigma, sigma_next = torch.tensor([[0.2, 0.1], [0.19, 0.09]], dtype=torch.float64)
    x = C + sigma.view(-1, 1, 1, 1) * noise
    x_next = C + sigma_next.view(-1, 1, 1, 1) * (noise + 0.1 * more)
    p = torch.tensor([0.1, 0.1], dtype=torch.float64)
    exact = (p, x, sigma, C, N, x_next, sigma_next)
    actual = formulas.posterior_of_negative(*(t.float() for t in exact), **settings())
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), posterior_ve(*exact), rtol=1e-3, atol=0)


def test_posterior_leaves_its_arguments_as_they_are(transition, formulas):
    before = [t.clone() for t in transition]
    formulas.posterior_of_negative(*transition, **settings())
    assert all(map(torch.equal, transition, before))


# Distance to the mean


@pytest.mark.parametrize("deviation", [0.13, 1.0, 3.0])
def test_distance_is_the_posterior_deviation_of_gaussian_data(deviation, formulas):
    """Precisions add: of the data 1/σ_d², of the noisy latent 1/σ²."""
    sigma = torch.tensor([1e-4, 0.3, 1.0, 14.6, 1e4], dtype=torch.float64)
    squared = 48 / (1 / sigma**2 + 1 / deviation**2)
    actual = formulas.distance_to_mean(sigma, deviation, 48, False)
    torch.testing.assert_close(actual**2, squared)


def test_distance_of_a_flow_model_is_that_of_its_noise_level(formulas):
    t = torch.tensor([1e-4, 0.2, 0.5, 0.99], dtype=torch.float64)
    actual = formulas.distance_to_mean(t, 0.7, 48, True)
    torch.testing.assert_close(actual, formulas.distance_to_mean(t / (1 - t), 0.7, 48, False))


def test_distance_at_the_ends(formulas):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 48**0.5 * 0.7], dtype=torch.float64)
    torch.testing.assert_close(formulas.distance_to_mean(ends, 0.7, 48, True), expected)
    assert formulas.distance_to_mean(ends[:1], 0.7, 48, False) == 0


# Shapes, which hand a step to a formula

EMPTY = [["the empty prompt", {}]]

SHAPES = {
    "Projected": lambda s: s.Projected(0.2, 1.5, -0.5),
    "Projected, momentum alone": lambda s: s.Projected(1.0, 0.0, 0.7),
    "Projected, no momentum": lambda s: s.Projected(0.0, 0.0, 0.0),
    "Reject, different": lambda s: s.Reject("different"),
    "Reject, common": lambda s: s.Reject("common"),
    "Cap": lambda s: s.Cap(1.5, False),
    "Cap of the other push": lambda s: s.Cap(0.7, True),
    "Rescale": lambda s: s.Rescale(0.7),
    "ZeroStar": lambda s: s.ZeroStar(),
    "PerpNeg": lambda s: s.PerpNeg(EMPTY, 0.8),
    "Frequency": lambda s: s.Frequency(0.3, 1.4, 2),
    "Region": lambda s: s.Region(MASK, 4, 0.2),
}
MASK = some_masks(1, 24, 24)


@pytest.fixture(scope="module")
def shapes(pack):
    return pack.guiders.push.shapes


@pytest.fixture(params=SHAPES)
def shape(request, shapes):
    return SHAPES[request.param](shapes)


RUN = (9.0, 4.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def noise(pack):
    return pack.guiders.push.noise.Noise(False, lambda percent: 10 * (1 - percent), sigmas=RUN)


@pytest.fixture(scope="module")
def step_of(pack, noise):
    """A step at which the other push and the empty prompt are what is given."""

    def step_of(a, sigma=4.0, other=True):
        def predict(name):
            assert name.startswith("empty")
            return a.U

        return pack.guiders.push.call.Step(
            noise=noise,
            x=a.x,
            sigma=a.x.new_full((len(a.x),), sigma),
            C=a.C,
            R=a.C - a.delta,
            difference=a.delta,
            other=lambda: a.other if other else None,
            predict=predict,
            measure_level=lambda: sigma,
        )

    return step_of


def same_size_steps():
    whole = given(9, 4, 6, 8)
    return [(s, whole.map(lambda t, i=i: t[3 * i : 3 * i + 3])) for i, s in enumerate(RUN[:-1])]


EXPECTED = {
    "Reject, different": lambda f, a, e: f.rejected(a.delta, a.other),
    "Reject, common": lambda f, a, e: f.kept_along(a.delta, a.other),
    "Cap": lambda f, a, e: f.capped(a.delta, 1.5),
    "Cap of the other push": lambda f, a, e: f.capped(a.delta, 0.7 * f.norm(a.other)),
    "Rescale": lambda f, a, e: f.rescaled(a.delta, a.C, e, 0.7),
    "ZeroStar": lambda f, a, e: f.zero_star(a.delta, a.x, a.C),
    "PerpNeg": lambda f, a, e: f.perp_neg(a.delta, a.C, a.U, e, 0.8),
    "Frequency": lambda f, a, e: f.frequencies(a.delta, 0.3, 1.4, 2),
    "Region": lambda f, a, e: a.delta * f.region(MASK, a.delta.shape, 4, 0.2),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_shape_is_its_formula(name, shapes, formulas, noise, step_of):
    a = given(*SMALL)
    actual = SHAPES[name](shapes).start(noise)(a.delta, step_of(a), 2.0)
    assert torch.equal(actual, EXPECTED[name](formulas, a, 2.0))


def test_projected_averages_caps_and_projects_in_this_order(shapes, formulas, noise, step_of):
    running = shapes.Projected(0.2, 1.5, -0.5).start(noise)
    average = None
    for sigma, a in same_size_steps():
        average = a.delta if average is None else a.delta - 0.5 * average
        expected = formulas.projected(formulas.capped(average, 1.5), a.C, 0.2)
        torch.testing.assert_close(running(a.delta, step_of(a, sigma), 2.0), expected)


def test_shape_of_no_strength_is_the_identity(shape, formulas, noise, step_of):
    running = shape.start(noise)
    for sigma, a in same_size_steps():
        for strength in (0.0, torch.zeros(3, dtype=torch.float64)):
            shaped = running(a.delta, step_of(a, sigma), strength)
            assert torch.equal(formulas.add_push(a.C, shaped, strength), a.C)


def test_shape_of_a_batch_is_that_of_batches_of_one(shape, noise, step_of):
    """Also over several steps, of which some shapes remember something."""
    together, alone = shape.start(noise), [shape.start(noise) for _ in range(3)]
    strengths = torch.tensor([0.5, -0.3, 8.0], dtype=torch.float64)
    for sigma, a in same_size_steps():
        actual = together(a.delta, step_of(a, sigma), strengths)
        for i, running in enumerate(alone):
            one = a.map(lambda t, i=i: t[i : i + 1])
            expected = running(one.delta, step_of(one, sigma), float(strengths[i]))
            torch.testing.assert_close(actual[i : i + 1], expected)


def test_shape_starts_afresh_with_each_run(shape, noise, step_of):
    def run():
        running = shape.start(noise)
        return [running(a.delta, step_of(a, sigma), 2.0) for sigma, a in same_size_steps()]

    first, second = run(), run()
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_keeps_the_dtype_and_its_arguments(dtype, shape, noise, step_of):
    running = shape.start(noise)
    for sigma, exact in same_size_steps():
        a = exact.map(lambda t: t.to(dtype))
        before = a.map(Tensor.clone)
        shaped = running(a.delta, step_of(a, sigma), 2.0)
        assert shaped.dtype == dtype and shaped.isfinite().all()
        assert all(map(torch.equal, a, before))


def test_shape_of_no_difference_is_finite(shape, noise, step_of):
    for name in Given._fields:
        running = shape.start(noise)
        for sigma, a in same_size_steps():
            zero = a.with_one(name, torch.zeros_like)
            assert running(zero.delta, step_of(zero, sigma), 2.0).isfinite().all()


@pytest.mark.parametrize("name", ["Reject, different", "Reject, common", "Cap of the other push"])
def test_shape_without_another_push_changes_nothing(name, shapes, noise, step_of):
    a = given(*SMALL)
    shape = SHAPES[name](shapes)
    assert shape.needs_other_push
    actual = shape.start(noise)(a.delta, step_of(a, other=False), 2.0)
    assert torch.equal(actual, a.delta)


def test_only_perp_neg_asks_for_another_prediction(shapes):
    asking = {name for name, make in SHAPES.items() if make(shapes).prompts}
    assert asking == {"PerpNeg"}
    (prompt,) = SHAPES["PerpNeg"](shapes).prompts.values()
    assert prompt is EMPTY


def test_each_perp_neg_asks_by_a_name_of_its_own(shapes):
    one, two = (SHAPES["PerpNeg"](shapes) for _ in range(2))
    assert one == two and one.prompts.keys().isdisjoint(two.prompts)


@pytest.mark.parametrize("name", ["Frequency", "Region"])
def test_shape_that_needs_an_image_names_itself_to_sound(name, pack, shapes, noise, step_of):
    sound = given(2, 8, 100)
    shape = SHAPES[name](shapes)
    assert shape.needs_image
    match = rf"{name} Shape.*\(2, 8, 100\)"
    with pytest.raises(pack.guiders.errors.GuidanceError, match=match):
        shape.start(noise)(sound.delta, step_of(sound), 2.0)


@pytest.mark.parametrize(("mask", "outside"), [(torch.ones(1, 5, 7), 0.0), (MASK, 1.0)])
def test_region_that_is_everywhere_is_off(mask, outside, shapes, noise, step_of):
    """Its running shape returns what it is given, so that not a bit changes."""
    running = shapes.Region(mask, 4, outside).start(noise)
    for a in (given(*SMALL), given(2, 8, 100)):
        assert running(a.delta, step_of(a), 2.0) is a.delta


def test_region_fits_its_mask_to_each_size(shapes, formulas, noise, step_of, monkeypatch):
    """Once to each, not at every step."""
    asked = []
    region = formulas.region

    def noted(masks, shape, *rest):
        asked.append(tuple(shape))
        return region(masks, shape, *rest)

    monkeypatch.setattr(formulas, "region", noted)
    running = shapes.Region(MASK, 4, 0.2).start(noise)
    for size in (SMALL, SMALL, (3, 4, 12, 12), (3, 4, 5, 12, 12), (3, 4, 5, 12, 12)):
        a = given(*size)
        expected = a.delta * region(MASK, size, 4, 0.2)
        assert torch.equal(running(a.delta, step_of(a), 2.0), expected)
    assert asked == [SMALL, (3, 4, 12, 12), (3, 4, 5, 12, 12)]


def test_chained_shapes_act_one_after_the_other(pack, shapes, formulas, noise):
    a = given(*SMALL)

    def shaped(*chain):
        push = pack.guiders.push.push.Push(2.0, (), chain)
        call = pack.guiders.push.call.Call(a.x, a.x.new_full((len(a.x),), 4.0))
        call.C = a.C
        call.reuse("bad", a.delta)
        call.take("bad", a.C - a.delta)
        return pack.guiders.push.push.RunningPush("bad", push, noise).at(call).delta

    chain = [shapes.Cap(1.5, False), shapes.Frequency(0.3, 1.4, 1)]
    capped_first = formulas.frequencies(formulas.capped(a.delta, 1.5), 0.3, 1.4, 1)
    capped_last = formulas.capped(formulas.frequencies(a.delta, 0.3, 1.4, 1), 1.5)
    assert torch.equal(shaped(*chain), capped_first)
    assert torch.equal(shaped(*chain[::-1]), capped_last)
    assert not torch.allclose(capped_first, capped_last)
    assert torch.equal(shaped(), a.delta)
