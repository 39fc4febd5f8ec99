"""What is taken from weights and prompts, against closed forms and brute force."""

import importlib
from itertools import pairwise

import pytest
import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def degradations(pack):
    return importlib.import_module(".guiders.weaken.degradations", pack.__name__)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=generator(seed)).to(dtype)


WEIGHTS = {
    "add_relative_noise": lambda d, W: d.add_relative_noise(W, 0.3, generator()),
    "quantize": lambda d, W: d.quantize(W, 3),
    "truncate_rank": lambda d, W: d.truncate_rank(W, 0.4),
}
PROMPTS = {
    "drop_tokens": lambda d, E: d.drop_tokens(E, 0.5, generator()),
    "add_prompt_noise": lambda d, E: d.add_prompt_noise(E, 0.3, generator()),
    "blur_prompt": lambda d, E: d.blur_prompt(E, 0.4),
}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("name", WEIGHTS | PROMPTS)
def test_shape_dtype_and_argument_are_kept(degradations, name, dtype):
    degrade = (WEIGHTS | PROMPTS)[name]
    given = normal(6, 8, 5, seed=1, dtype=dtype)
    before = given.clone()
    result = degrade(degradations, given)
    assert (result.shape, result.stride(), result.dtype) == (given.shape, given.stride(), dtype)
    assert torch.equal(given, before)
    assert not torch.equal(result, given)
    assert result.untyped_storage().data_ptr() != given.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WEIGHTS | PROMPTS)
def test_halves_are_computed_in_float32(degradations, name, dtype):
    """Nothing but the result is rounded to the dtype that came."""
    degrade = (WEIGHTS | PROMPTS)[name]
    half = normal(6, 8, 5, seed=1, dtype=dtype)
    assert torch.equal(degrade(degradations, half), degrade(degradations, half.float()).to(dtype))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (1, 4), (4, 1), (1, 1), (4, 3, 2, 2)], ids=str)
def test_zeros_stay_zeros(degradations, name, shape):
    zeros = torch.zeros(shape)
    assert torch.equal(WEIGHTS[name](degradations, zeros), zeros)


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-20, 1e18])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_any_magnitude(degradations, name, magnitude):
    W = torch.rand(6, 9, generator=generator()) * magnitude
    assert torch.isfinite(WEIGHTS[name](degradations, W)).all()


@pytest.mark.parametrize(
    ("name", "exponent"),
    [("add_relative_noise", 40), ("quantize", 100), ("truncate_rank", 70)],
)
def test_the_scale_of_a_weight_does_not_matter(degradations, name, exponent):
    W = normal(12, 9)
    expected = WEIGHTS[name](degradations, W)
    for factor in (2.0**exponent, 2.0**-exponent):
        result = WEIGHTS[name](degradations, W * factor) / factor
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


# Noise


def test_noise_is_relative_to_the_spread(degradations):
    W = 3.0 + 0.02 * normal(300, 200)
    noise = degradations.add_relative_noise(W, 0.25, generator(1)) - W
    assert noise.mean().abs() < 1e-4
    assert noise.std() == pytest.approx(0.25 * 0.02, rel=0.01)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), W.flatten()]))[0, 1]) < 0.02


def test_noise_is_the_closed_form(degradations):
    W = normal(4, 5, seed=2)
    spread = (W.double() - W.double().mean()).square().mean().sqrt()
    expected = W.double() + 0.7 * spread * normal(4, 5, seed=9).double()
    noisy = degradations.add_relative_noise(W, 0.7, generator(9))
    torch.testing.assert_close(noisy.double(), expected)


def test_noise_by_seed(degradations):
    W = normal(20, 30)
    one = degradations.add_relative_noise(W, 0.1, generator(1))
    assert torch.equal(one, degradations.add_relative_noise(W, 0.1, generator(1)))
    assert not torch.equal(one, degradations.add_relative_noise(W, 0.1, generator(2)))


def test_noise_is_the_same_in_every_dtype(degradations):
    W = normal(20, 30).bfloat16()
    wide = degradations.add_relative_noise(W.float(), 0.5, generator(1))
    torch.testing.assert_close(
        degradations.add_relative_noise(W, 0.5, generator(1)).float(), wide, rtol=0.01, atol=0.01
    )


def test_noise_on_a_single_number(degradations):
    """It has no spread, and a sample's standard deviation would be NaN."""
    assert degradations.add_relative_noise(torch.tensor([[2.0]]), 0.5, generator()).item() == 2.0


# Bits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_quantisation_by_brute_force(degradations, bits, dtype):
    """Of all levels of its channel, each number goes to one that is nearest."""
    W = normal(5, 3, 2, 2, seed=bits, dtype=dtype)
    last = 2 ** (bits - 1) - 1
    for channel, rounded in zip(W, degradations.quantize(W, bits), strict=True):
        levels = torch.arange(-last, last + 1) * channel.abs().max().double() / last
        distances = (channel.double().flatten()[:, None] - levels).abs()
        off = (channel.double() - rounded.double()).abs().flatten()
        rounding = 2 * torch.finfo(dtype).eps * channel.abs().max().double()
        assert (off <= distances.min(dim=1).values + rounding).all()
        near = (rounded.double().flatten()[:, None] - levels).abs().min(dim=1).values
        assert (near <= rounding).all()


def test_quantisation_by_hand(degradations):
    W = torch.tensor([[3.0, -1.4, 1.6, -0.4], [0.0, 0.0, 0.0, 0.0], [-0.6, 0.2, 0.52, 0.29]])
    expected = torch.tensor([[3.0, -1.0, 2.0, 0.0], [0.0] * 4, [-0.6, 0.2, 0.6, 0.2]])
    # At 3 bits: seven levels, from −3 to 3 times the scale.
    torch.testing.assert_close(degradations.quantize(W, 3), expected)


def test_quantisation_is_symmetric_and_per_channel(degradations):
    W = normal(8, 40)
    rounded = degradations.quantize(W, 4)
    assert torch.equal(degradations.quantize(-W, 4), -rounded)
    assert all(len(channel.unique()) <= 15 for channel in rounded)
    factors = torch.logspace(-6, 6, 8)[:, None]
    torch.testing.assert_close(degradations.quantize(W * factors, 4), rounded * factors)


def test_the_largest_weight_of_a_channel_stays(degradations):
    W = normal(8, 40)
    rounded = degradations.quantize(W, 2)
    torch.testing.assert_close(rounded.abs().amax(1), W.abs().amax(1))


def test_more_bits_are_nearer(degradations):
    W = normal(16, 64)
    errors = [(degradations.quantize(W, bits) - W).norm() for bits in range(2, 13)]
    assert all(a > b for a, b in pairwise(errors))
    assert errors[6] / W.norm() < 0.01, "8 bits"


def test_quantising_twice_is_quantising_once(degradations):
    rounded = degradations.quantize(normal(8, 40), 4)
    torch.testing.assert_close(degradations.quantize(rounded, 4), rounded)


def test_quantisation_of_a_vector(degradations):
    """Each number is a channel of its own, and as such its own largest."""
    W = normal(9)
    torch.testing.assert_close(degradations.quantize(W, 2), W)


# Rank


def by_svd(W, keep):
    """The truncated singular value decomposition in float64."""
    matrix = W.double().flatten(1)
    U, S, V = torch.linalg.svd(matrix, full_matrices=False)
    rank = max(1, round(keep * len(S)))
    return ((U[:, :rank] * S[:rank]) @ V[:rank]).reshape(W.shape)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.34, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32), (12, 5, 3, 3)], ids=str)
def test_rank_is_the_truncated_svd(degradations, shape, keep):
    W = normal(*shape)
    expected = by_svd(W, keep)
    result = degradations.truncate_rank(W, keep).double()
    assert (result - expected).norm() <= 1e-5 * W.norm()


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.8])
def test_rank_of_a_matrix_with_fast_falling_singular_values(degradations, keep):
    """Over six decades: no farther from W than the best of its rank, but for the root of eps."""
    U = torch.linalg.qr(normal(96, 64, seed=1).double()).Q
    V = torch.linalg.qr(normal(64, 64, seed=2).double()).Q
    W = (U * torch.logspace(0, -6, 64, dtype=torch.float64)) @ V
    best = (W - by_svd(W, keep)).norm()
    result = degradations.truncate_rank(W.float(), keep).double()
    assert (W - result).norm() <= best + torch.finfo(torch.float32).eps ** 0.5


def test_rank_is_no_more_than_what_is_kept(degradations):
    W = normal(50, 30)
    singular = torch.linalg.svdvals(degradations.truncate_rank(W, 0.2).double())
    assert (singular[:6] > 1).all()
    assert (singular[6:] < 1e-4).all()


@pytest.mark.parametrize("keep", [1.0, 1.5, 0.99])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_full_rank_is_untouched(degradations, keep, dtype):
    W = normal(20, 10, dtype=dtype)
    result = degradations.truncate_rank(W, keep)
    assert torch.equal(result, W)
    assert result.data_ptr() != W.data_ptr()


def test_rank_where_it_is_low_already(degradations):
    W = normal(40, 3) @ normal(3, 20, seed=1)
    torch.testing.assert_close(degradations.truncate_rank(W, 0.5), W, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rank_of_weights_that_are_not_finite(degradations, value):
    W = normal(8, 6)
    W[3, 2] = value
    assert torch.equal(degradations.truncate_rank(W, 0.5).nan_to_num(), W.nan_to_num())


def test_rank_of_a_row_and_of_a_column(degradations):
    for W in (normal(1, 7), normal(7, 1)):
        assert torch.equal(degradations.truncate_rank(W, 0.1), W)


# Prompts


def test_dropped_tokens_become_the_mean_of_the_rest(degradations):
    E = normal(2, 77, 12)
    E[:, 0] = 100.0
    result = degradations.drop_tokens(E, 0.25, generator(3))
    changed = (result != E).any(dim=2)
    assert torch.equal(changed[0], changed[1]), "the same places for the whole batch"
    assert changed[0].sum() == 19
    assert not changed[0, 0]
    for item, before in zip(result, E, strict=True):
        remaining = before[1:][~changed[0, 1:]]
        torch.testing.assert_close(
            item[changed[0]], remaining.mean(dim=0).expand(19, -1), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("tokens", [2, 3, 10, 154])
def test_the_share_of_dropped_tokens(degradations, share, tokens):
    E = normal(1, tokens, 4)
    changed = (degradations.drop_tokens(E, share, generator()) != E).any(dim=2).sum()
    assert changed == (0 if share == 0 else max(1, round(share * (tokens - 1))))


@pytest.mark.parametrize("tokens", [2, 9])
def test_dropping_all_tokens_leaves_the_first(degradations, tokens):
    E = normal(2, tokens, 4)
    result = degradations.drop_tokens(E, 1.0, generator())
    assert torch.equal(result, E[:, :1].expand(-1, tokens, -1))


def test_dropping_a_token_all_alone(degradations):
    """There is nothing left to take a mean of."""
    E = normal(2, 1, 4)
    assert torch.equal(degradations.drop_tokens(E, 0.2, generator()), torch.zeros_like(E))
    assert torch.equal(degradations.drop_tokens(E, 0.0, generator()), E)


def test_every_token_but_the_first_can_be_dropped(degradations):
    E = normal(1, 6, 4)
    hit = torch.zeros(6, dtype=torch.bool)
    for seed in range(40):
        hit |= (degradations.drop_tokens(E, 0.2, generator(seed)) != E).any(dim=2)[0]
    assert hit.tolist() == [False, *[True] * 5]


def test_dropping_by_seed(degradations):
    E = normal(1, 77, 4)
    one = degradations.drop_tokens(E, 0.5, generator(1))
    assert torch.equal(one, degradations.drop_tokens(E, 0.5, generator(1)))
    assert not torch.equal(one, degradations.drop_tokens(E, 0.5, generator(2)))


@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 5)], ids=["tokens", "pooled"])
def test_prompt_noise_is_relative_to_each_item(degradations, shape):
    E = normal(*shape)
    E[1] = 50.0 + 10.0 * E[1]
    e = normal(*shape[1:], seed=4)  # The same for all, so that none depends on the others.
    result = degradations.add_prompt_noise(E, 0.6, generator(4))
    for item, before in zip(result, E, strict=True):
        spread = (before - before.mean()).square().mean().sqrt()
        torch.testing.assert_close(item, before + 0.6 * spread * e, rtol=1e-5, atol=1e-5)


def test_blur_goes_to_the_mean(degradations):
    E = normal(2, 7, 5)
    mean = E.mean(dim=1, keepdim=True)
    torch.testing.assert_close(degradations.blur_prompt(E, 0.3), 0.7 * E + 0.3 * mean)
    assert torch.equal(degradations.blur_prompt(E, 0.0), E)
    assert torch.equal(degradations.blur_prompt(E, 1.0), mean.expand_as(E))
    torch.testing.assert_close(degradations.blur_prompt(E, 0.8).mean(dim=1, keepdim=True), mean)
