"""Weakened attention, shuffled tokens and dropped activations, each against brute force."""

import math
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Three tokens of text before the picture, and two behind it; two frames that are not square.
BEFORE, AFTER, GRID = 3, 2, (2, 4, 6)
BATCH, HEADS, WIDTH = 2, 3, 8

ADDITIVE, BOOLEAN = "additive", "boolean"
MASKS = {
    "none": None,
    "queries and keys": (lambda n: (n, n), ADDITIVE),
    "keys": (lambda n: (1, n), ADDITIVE),
    "batch, queries and keys": (lambda n: (BATCH, n, n), ADDITIVE),
    "batch and keys": (lambda n: (BATCH, 1, n), ADDITIVE),
    "all": (lambda n: (BATCH, HEADS, n, n), ADDITIVE),
    "all but heads": (lambda n: (BATCH, 1, n, n), ADDITIVE),
    "four dimensions, keys": (lambda n: (1, 1, 1, n), ADDITIVE),
    "four dimensions, queries": (lambda n: (1, 1, n, 1), ADDITIVE),
    "boolean queries and keys": (lambda n: (n, n), BOOLEAN),
    "boolean batch and keys": (lambda n: (BATCH, 1, n), BOOLEAN),
    "boolean all": (lambda n: (BATCH, HEADS, n, n), BOOLEAN),
}


@pytest.fixture(scope="module")
def perturbations(pack):
    return pack.guiders.weaken.perturbations


def attend(q, k, v, mask):
    """Attention by the book, as ComfyUI computes it: finite for masks down to the lowest number."""
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).double()
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return weights.to(v.dtype) @ v


class Case:
    """Queries, keys and values of a joint sequence, its mask, and where the picture is in it."""

    def __init__(self, mask="none", before=BEFORE, after=AFTER, grid=GRID, dtype=torch.float64):
        self.grid = grid
        self.length = before + math.prod(grid) + after
        self.span = slice(before, before + math.prod(grid))
        generator = torch.Generator().manual_seed(1)

        def random(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        shape = BATCH, HEADS, self.length, WIDTH
        self.q, self.k, self.v = (random(*shape).to(dtype) for _ in range(3))
        self.mask = None
        if MASKS[mask] is not None:
            shape_of, kind = MASKS[mask]
            self.mask = random(*shape_of(self.length))
            if kind == BOOLEAN:
                # All see themselves, so that none sees nothing.
                itself = torch.eye(self.length, dtype=torch.bool)[-self.mask.shape[-2] :]
                self.mask = (self.mask > 0) | itself | (torch.arange(self.length) == 0)

    @property
    def is_picture(self):
        place = torch.arange(self.length)
        return (self.span.start <= place) & (place < self.span.stop)

    def places(self):
        """Frame, row and column of each token of the picture, ``[tokens, 3]``."""
        return torch.cartesian_prod(*(torch.arange(n) for n in self.grid)).view(-1, 3)

    def attention(self, q=None, visible=None):
        """The whole attention matrix applied, where ``visible`` hides some of it."""
        scores = (self.q if q is None else q) @ self.k.transpose(-1, -2) / math.sqrt(WIDTH)
        if self.mask is not None and self.mask.dtype == torch.bool:
            scores = scores.masked_fill(~self.four(self.mask), -torch.inf)
        elif self.mask is not None:
            scores = scores + self.four(self.mask)
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        return scores.softmax(-1) @ self.v

    @staticmethod
    def four(mask):
        return mask[:, None] if mask.ndim == 3 else mask

    def additive(self, perturbations):
        return perturbations.additive_mask(self.mask, self.q.dtype)

    def seeing(self, near):
        """Who sees whom if of two tokens of the picture only those see each other."""
        visible = torch.ones(self.length, self.length, dtype=torch.bool)
        visible[self.span, self.span] = near
        return visible


@pytest.fixture(params=MASKS)
def case(request):
    return Case(request.param)


SEQUENCES = {
    "text first": {"after": 0},
    "picture first": {"before": 0},
    "picture alone": {"before": 0, "after": 0},
    "one token": {"grid": (1, 1, 1)},
    "one row": {"grid": (1, 1, 9)},
    "one column": {"grid": (3, 5, 1)},
    "odd sides": {"grid": (1, 5, 7)},
}


@pytest.fixture(params=SEQUENCES)
def sequence(request):
    return Case(**SEQUENCES[request.param])


def test_reference_is_plain_attention(perturbations, case):
    """What the tests compare with, and what they pass as the network's own attention, agree."""
    plain = attend(case.q, case.k, case.v, case.additive(perturbations))
    torch.testing.assert_close(plain, case.attention())


# Identity


def check_identity(perturbations, case):
    mask = case.additive(perturbations)
    actual = perturbations.identity_attention(case.q, case.k, case.v, case.span, mask, attend)
    near = torch.eye(math.prod(case.grid), dtype=torch.bool)
    torch.testing.assert_close(actual, case.attention(visible=case.seeing(near)))


def test_identity_with_masks(perturbations, case):
    check_identity(perturbations, case)


def test_identity_of_sequences(perturbations, sequence):
    check_identity(perturbations, sequence)


def test_identity_of_a_picture_alone_is_its_values(perturbations):
    case = Case(before=0, after=0)
    never = None
    out = perturbations.identity_attention(case.q, case.k, case.v, case.span, None, never)
    assert torch.equal(out, case.v)


# Blur


def gaussian(case, strength):
    """Weight of each token of the picture for each other one, ``[tokens, tokens]``."""
    places = case.places().double()
    offsets = places[:, None] - places
    _, rows, columns = case.grid
    if strength == 1:
        weights = torch.ones(offsets.shape[:2], dtype=torch.float64)
    else:
        deviation = strength / (1 - strength) / 4
        weights = torch.exp(
            -((offsets[..., 1] / (rows * deviation)) ** 2) / 2
            - ((offsets[..., 2] / (columns * deviation)) ** 2) / 2
        )
    weights = weights * (offsets[..., 0] == 0)
    return weights / weights.sum(-1, keepdim=True)


def check_blur(perturbations, case, strength):
    mask = case.additive(perturbations)
    before = case.q.clone()
    actual = perturbations.blurred_attention(
        case.q, case.k, case.v, case.span, case.grid, strength, mask, attend
    )
    assert torch.equal(case.q, before)
    q = case.q.clone()
    q[:, :, case.span] = gaussian(case, strength) @ q[:, :, case.span]
    torch.testing.assert_close(actual, case.attention(q))


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_blur_with_masks(strength, perturbations, case):
    check_blur(perturbations, case, strength)


@pytest.mark.parametrize("strength", [0.01, 0.5, 0.99, 1.0])
def test_blur_of_sequences(strength, perturbations, sequence):
    check_blur(perturbations, sequence, strength)


def test_blur_at_strength_one_takes_the_mean_of_each_frame(perturbations):
    case = Case()
    seen = []
    perturbations.blurred_attention(
        *(case.q, case.k, case.v, case.span, case.grid, 1.0, None),
        lambda q, k, v, mask: seen.append(q),
    )
    frames = case.q[:, :, case.span].unflatten(2, (GRID[0], -1))
    mean = frames.mean(3, keepdim=True).expand_as(frames).flatten(2, 3)
    torch.testing.assert_close(seen[0][:, :, case.span], mean)
    assert torch.equal(seen[0][:, :, ~case.is_picture], case.q[:, :, ~case.is_picture])


def test_hardly_any_blur_changes_hardly_anything(perturbations):
    case = Case()
    out = perturbations.blurred_attention(
        case.q, case.k, case.v, case.span, case.grid, 1e-6, None, attend
    )
    torch.testing.assert_close(out, case.attention())


# Window


def check_window(perturbations, case, strength):
    mask = case.additive(perturbations)
    actual = perturbations.windowed_attention(
        case.q, case.k, case.v, case.span, case.grid, strength, mask, attend
    )
    places = case.places()
    _, rows, columns = case.grid
    reach = [int((1 - strength) * side / 2) for side in (rows, columns)]
    offsets = (places[:, None] - places).abs()
    near = (offsets[..., 1] <= reach[0]) & (offsets[..., 2] <= reach[1])
    torch.testing.assert_close(actual, case.attention(visible=case.seeing(near)))


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_window_with_masks(strength, perturbations, case):
    check_window(perturbations, case, strength)


@pytest.mark.parametrize("strength", [0.01, 0.3, 0.5, 0.7, 1.0])
def test_window_of_sequences(strength, perturbations, sequence):
    check_window(perturbations, sequence, strength)


def test_window_of_a_large_picture(perturbations):
    """Of more strips than one, the last one short."""
    for grid in ((1, 17, 5), (2, 5, 17)):
        case = Case(grid=grid)
        for strength in (0.1, 0.6, 0.8):
            check_window(perturbations, case, strength)


def test_narrowest_window_of_one_frame_is_the_identity(perturbations):
    case = Case(grid=(1, 4, 6))
    window = perturbations.windowed_attention(
        case.q, case.k, case.v, case.span, case.grid, 1.0, None, attend
    )
    identity = perturbations.identity_attention(case.q, case.k, case.v, case.span, None, attend)
    torch.testing.assert_close(window, identity)


def test_window_never_takes_the_whole_matrix(perturbations):
    case = Case(before=0, after=0, grid=(1, 32, 32))
    largest = 0

    def watched(q, k, v, mask):
        nonlocal largest
        largest = max(largest, q.shape[2] * k.shape[2])
        return attend(q, k, v, mask)

    perturbations.windowed_attention(
        case.q, case.k, case.v, case.span, case.grid, 0.8, None, watched
    )
    assert largest <= (32 * 32) ** 2 / 16


# Any precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mask", ["none", "batch, queries and keys", "boolean all"])
@pytest.mark.parametrize("mode", ["identity", "blur", "window"])
def test_precision(mode, mask, dtype, perturbations):
    def weakened(dtype):
        case = Case(mask, dtype=dtype)
        q, k, v, span = case.q, case.k, case.v, case.span
        given = case.additive(perturbations)
        if mode == "identity":
            return perturbations.identity_attention(q, k, v, span, given, attend)
        function = getattr(
            perturbations, {"blur": "blurred", "window": "windowed"}[mode] + "_attention"
        )
        return function(q, k, v, span, case.grid, 0.6, given, attend)

    actual, exact = weakened(dtype), weakened(torch.float64)
    assert actual.dtype == dtype and actual.isfinite().all()
    error = (actual.double() - exact).norm() / exact.norm()
    assert error < 4 * torch.finfo(dtype).eps


# Masks


def test_additive_mask_has_four_dimensions_and_the_dtype_of_the_queries(perturbations):
    for mask in (torch.ones(4, 5), torch.ones(2, 4, 5), torch.ones(2, 1, 4, 5)):
        actual = perturbations.additive_mask(mask, torch.bfloat16)
        assert actual.ndim == 4 and actual.dtype == torch.bfloat16
        assert torch.equal(actual.expand(2, 1, 4, 5), torch.ones(2, 1, 4, 5, dtype=torch.bfloat16))
    assert perturbations.additive_mask(None, torch.float32) is None


# Tokens


@pytest.fixture
def tokens():
    """Batch, tokens and width; each token is another, the same in the whole batch."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, 50, 4, generator=generator).repeat(3, 1, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shuffled(perturbations, tokens, span, share):
    order = perturbations.shuffled_order(tokens, span, share, seeded())
    return perturbations.in_order(tokens, order)


@pytest.mark.parametrize(
    ("share", "moved"),
    [(0.01, 2), (0.05, 2), (0.1, 4), (0.5, 20), (0.99, 40), (1.0, 40)],
)
def test_shuffle(share, moved, perturbations, tokens):
    """In a span of 40 tokens; fewer than two cannot change places."""
    span = slice(7, 47)
    before = tokens.clone()
    out = shuffled(perturbations, tokens, span, share)
    assert torch.equal(tokens, before) and out.shape == tokens.shape
    changed = (out != tokens).any(-1)
    assert torch.equal(changed[0], changed[1]) and torch.equal(changed[0], changed[2])
    assert changed[0].sum() == moved
    assert not changed[:, :7].any() and not changed[:, 47:].any()
    # A permutation: the same tokens, in another order, the same for the whole batch.
    source = (out[0, :, None] == tokens[0, None]).all(-1).double()
    assert (source.sum(0) == 1).all() and (source.sum(1) == 1).all()
    assert torch.equal(out[1], out[0])
    torch.testing.assert_close(out.norm(), tokens.norm())


def test_shuffle_takes_its_order_from_the_generator(perturbations, tokens):
    def order(seed):
        return perturbations.shuffled_order(tokens, slice(0, 50), 0.5, seeded(seed))

    assert torch.equal(order(1), order(1))
    assert not torch.equal(order(1), order(2))


def test_shuffle_of_very_few_tokens(perturbations, tokens):
    two = shuffled(perturbations, tokens, slice(3, 5), 0.01)
    assert torch.equal(two[:, 3], tokens[:, 4]) and torch.equal(two[:, 4], tokens[:, 3])
    one = shuffled(perturbations, tokens, slice(3, 4), 1.0)
    assert torch.equal(one, tokens)


# Tokens that are unlike each other


def unlike(perturbations, x, share, span=None):
    """The pairs that are swapped, of each image."""
    span = span or slice(0, x.shape[1])
    order = perturbations.swapped_order(x, span, share)
    assert order.shape == x.shape[:2]
    # Its own inverse, so that it puts back what it has moved.
    assert torch.equal(order.gather(1, order), torch.arange(x.shape[1]).expand_as(order))
    return [{(i, j) for i, j in enumerate(own.tolist()) if i < j} for own in order]


def similarity(pairs, x):
    """Mean cosine similarity of pairs of tokens, ``[tokens, width]``."""
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    return sum(float(unit[i] @ unit[j]) for i, j in pairs) / len(pairs)


def along_one_axis(count, dtype=torch.float64):
    """Tokens of one direction each, most of which differ along one axis; of any length."""
    generator = seeded(3)
    mean, axis = torch.linalg.qr(torch.randn(16, 2, generator=generator, dtype=torch.float64)).Q.T
    place = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    other = torch.randn(count, 16, generator=generator, dtype=torch.float64)
    length = 0.5 + torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return (length * (2 * mean + place * axis + 0.02 * other)).to(dtype)


@pytest.mark.parametrize(("share", "pairs"), [(0.001, 1), (0.2, 4), (0.5, 10), (1.0, 20)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_swapped_pairs_are_the_ends_of_the_main_axis(dtype, share, pairs, perturbations):
    """As a singular value decomposition in double precision has it."""
    x = torch.stack([along_one_axis(41, dtype), along_one_axis(41, dtype).flip(0)])
    actual = unlike(perturbations, x, share)
    for image, found in zip(x.double(), actual, strict=True):
        unit = image / image.norm(dim=1, keepdim=True)
        _, _, directions = torch.linalg.svd(unit - unit.mean(0), full_matrices=False)
        ranks = ((unit - unit.mean(0)) @ directions[0]).argsort().tolist()
        expected = {tuple(sorted((ranks[i], ranks[-1 - i]))) for i in range(pairs)}
        assert found == expected


@pytest.mark.parametrize(("spread", "good"), [(0.0, 0.95), (0.2, 0.8), (0.5, 0.5)])
def test_swapped_pairs_are_about_as_unlike_as_can_be(spread, good, perturbations):
    """Against the pairs of least similarity that are found by taking the least again and again."""
    x = along_one_axis(60) + spread * torch.randn(60, 16, generator=seeded(5), dtype=torch.float64)
    unit = x / x.norm(dim=1, keepdim=True)
    left = (unit @ unit.T).fill_diagonal_(torch.inf)
    greedy = set()
    for _ in range(15):
        i, j = divmod(int(left.argmin()), 60)
        greedy.add((min(i, j), max(i, j)))
        left[[i, j]] = left[:, [i, j]] = torch.inf
    (found,) = unlike(perturbations, x[None], 0.5)
    everyone = float((unit @ unit.T).sum() - 60) / (60 * 59)
    least = similarity(greedy, x)
    assert len(found) == 15
    # Of the way from the mean of all pairs to the least that can be.
    assert (everyone - similarity(found, x)) / (everyone - least) > good


class Largest(TorchDispatchMode):
    """Notes the largest tensor that anything makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            if isinstance(made, torch.Tensor):
                self.numbers = max(self.numbers, made.numel())
        return out


def test_swap_in_a_video_never_compares_all_tokens_with_each_other(perturbations):
    x = torch.randn(1, 30_000, 8, generator=seeded(1))
    with Largest() as largest:
        (pairs,) = unlike(perturbations, x, 0.2)
    assert len(pairs) == 3_000
    assert largest.numbers <= x.numel()


def test_swap_leaves_the_text_alone(perturbations):
    x = torch.randn(2, 20, 8, generator=seeded(1))
    for pairs in unlike(perturbations, x, 1.0, slice(3, 16)):
        assert len(pairs) == 6
        assert {place for pair in pairs for place in pair} <= set(range(3, 16))


def test_swap_of_tokens_that_are_all_the_same(perturbations):
    for x in (torch.ones(1, 6, 4), torch.zeros(1, 6, 4)):
        (pairs,) = unlike(perturbations, x, 1.0)
        assert len(pairs) == 3
        assert torch.equal(
            perturbations.in_order(x, perturbations.swapped_order(x, slice(0, 6), 1.0)), x
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_swap_in_half_precision(dtype, perturbations):
    """Longer tokens than it can square; the pairs are those of the same numbers in double."""
    x = (3e3 * along_one_axis(41)[None]).to(dtype)
    assert unlike(perturbations, x, 0.5) == unlike(perturbations, x.double(), 0.5)


# The embedding of the noise level


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 40), (2, 1, 40), (2, 5, 40)])
def test_noisy_embedding(shape, dtype, perturbations):
    """Each embedding by its own spread, with one noise for all of them."""
    x = (100 * torch.randn(shape, generator=seeded(1), dtype=torch.float64)).to(dtype)
    out = perturbations.noisy_embedding(x, 1.5, seeded())
    n = torch.randn(40, generator=seeded()).double()
    exact = x.double()
    expected = exact + 1.5 * exact.std(-1, keepdim=True) * n
    assert out.dtype == dtype
    error = (out.double() - expected).norm() / expected.norm()
    assert error < 2 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps ** 1.5)


# Activations


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(2, 500, 40), (2, 40, 20, 25), (2, 10, 2, 40, 25)])
def test_dropout(rate, shape, perturbations):
    x = 1 + torch.rand(shape, generator=seeded(1), dtype=torch.float64)
    before = x.clone()
    out = perturbations.drop_activations(x, rate, seeded())
    assert torch.equal(x, before)
    dropped = out == 0
    assert torch.equal(dropped[0], dropped[1])
    count = dropped[0].numel()
    deviation = math.sqrt(rate * (1 - rate) * count)
    assert abs(dropped[0].sum() - rate * count) < 4 * deviation
    torch.testing.assert_close(out[~dropped], x[~dropped] / (1 - rate))


def test_dropout_takes_its_mask_from_the_generator(perturbations):
    def dropped(seed):
        return perturbations.drop_activations(torch.ones(1, 30, 30), 0.5, seeded(seed))

    assert torch.equal(dropped(1), dropped(1))
    assert not torch.equal(dropped(1), dropped(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dropout_in_half_precision(dtype, perturbations):
    out = perturbations.drop_activations(torch.ones(1, 100, 100, dtype=dtype), 0.1, seeded())
    assert out.dtype == dtype
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.9).to(dtype).item()}


# Seeds


def drawn(perturbations, *of):
    return torch.rand(4, generator=perturbations.generator_for("cpu", *of)).tolist()


def test_generator_depends_on_all_that_is_passed(perturbations):
    different = [(0, 1.0, "a"), (1, 1.0, "a"), (0, 1.5, "a"), (0, 1.0, "b"), (2**64 - 1, 1.0, "a")]
    numbers = [drawn(perturbations, *of) for of in different]
    assert numbers == [drawn(perturbations, *of) for of in different]
    assert len(set(map(tuple, numbers))) == len(different)


def test_generator_is_the_same_after_a_restart(perturbations):
    of = (12345, 0.7071067690849304, "joint_blocks.7")
    script = (
        "import importlib.util, sys, torch\n"
        "spec = importlib.util.spec_from_file_location('p', sys.argv[1])\n"
        "p = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(p)\n"
        f"print(torch.rand(4, generator=p.generator_for('cpu', *{of!r})).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, perturbations.__file__],
        # Python's own hashes are others in each process, and must not matter.
        env={"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(drawn(perturbations, *of))
