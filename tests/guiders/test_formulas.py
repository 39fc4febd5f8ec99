"""The formulas alone, in float64, against the papers' own way of writing them."""

import pytest
import torch


@pytest.fixture
def formulas(pack):
    return pack.guiders.formulas


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 16, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_one_leg_is_autoguidance(formulas, predictions):
    C, W, _ = predictions
    torch.testing.assert_close(formulas.add_leg(C, C, W, 1.7), W + 1.7 * (C - W))


def test_two_legs_have_the_total_and_mix_of_the_paper(formulas, predictions):
    """2406.02507, appendix B.2: total g, of which the share α goes to autoguidance."""
    C, N, W = predictions
    g, alpha = 2.5, 0.3
    s, w = 1 + (g - 1) * (1 - alpha), 1 + (g - 1) * alpha
    guided = formulas.add_leg(N + s * (C - N), C, W, w)
    torch.testing.assert_close(guided, C + (g - 1) * ((1 - alpha) * (C - N) + alpha * (C - W)))


def test_scale_one_adds_nothing(formulas, predictions):
    guided, C, R = predictions
    assert torch.equal(formulas.add_leg(guided, C, R, 1.0), guided)


def test_scale_zero_is_the_bad_version(formulas, predictions):
    _, C, R = predictions
    torch.testing.assert_close(formulas.add_leg(C, C, R, 0.0), R)


def test_arguments_stay_as_they_are(formulas, predictions):
    before = [t.clone() for t in predictions]
    formulas.add_leg(*predictions, 2.0)
    assert all(map(torch.equal, predictions, before))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(formulas, predictions, dtype):
    assert formulas.add_leg(*(t.to(dtype) for t in predictions), 2.0).dtype == dtype
