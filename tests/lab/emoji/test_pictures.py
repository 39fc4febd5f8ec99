"""The emoji to learn from: which there are, and how they are drawn."""

import itertools

import pytest
import torch

from emoji.pictures import DETAIL, KINDS, code_points, glyphs, source
from node_pack import EMOJI_CLASSES


def drawn(seed=3, height=64, width=64, held_out=False):
    some = source(held_out)
    chosen = torch.arange(0, len(some.labels), 7)
    return some.draw(chosen, torch.Generator().manual_seed(seed), height, width)


def test_kinds_are_the_prompts():
    assert [*KINDS, "none"] == EMOJI_CLASSES


def test_no_glyph_is_of_two_kinds():
    for one, other in itertools.combinations(KINDS, 2):
        assert not set(code_points(one)) & set(code_points(other)), (one, other)


def test_held_out_glyphs_are_never_trained_on():
    """Of each kind about a tenth; and no two glyphs are the same image."""
    seen, unseen = glyphs(), glyphs(held_out=True)
    for label, kind in enumerate(KINDS):
        some, others = (int((labels == label).sum()) for _, labels in (seen, unseen))
        assert some + others == len(code_points(kind))
        assert 2 <= others <= 0.15 * some
    trained = {picture.numpy().tobytes() for picture in seen[0]}
    assert not trained & {picture.numpy().tobytes() for picture in unseen[0]}


def test_every_glyph_shows_something():
    pictures, _ = glyphs()
    assert pictures.shape[1:] == (4, 144, 144)
    assert float((pictures[:, 3] > 128).float().mean(dim=(1, 2)).min()) > 0.03


def test_pictures_are_between_black_and_white():
    for held_out in (False, True):
        pictures = drawn(held_out=held_out)
        assert float(pictures.min()) >= 0 and float(pictures.max()) <= 1
        assert float(pictures.std(dim=(1, 2, 3)).min()) > 0.02


def test_generator_decides_on_every_picture():
    assert torch.equal(drawn(seed=3), drawn(seed=3))
    differing = (drawn(seed=3) - drawn(seed=4)).abs().mean(dim=(1, 2, 3))
    assert float(differing.min()) > 0.005


@pytest.mark.parametrize(("height", "width"), [(96, 96), (64, 96), (96, 64)])
def test_other_sizes(height, width):
    """On an oblong one the glyph is in the middle, and paper is beside it."""
    pictures = drawn(height=height, width=width)
    assert pictures.shape[1:] == (3, height, width)
    if height != width:
        ends = pictures[..., :4] if width > height else pictures[..., :4, :]
        assert float(ends.std(dim=(2, 3)).max()) < 0.01


def test_no_detail_is_finer_than_two_pixels():
    """An image made half as large, and large again, is the same image."""
    pictures = drawn()
    half = torch.nn.functional.avg_pool2d(pictures, DETAIL)
    again = torch.nn.functional.interpolate(half, scale_factor=DETAIL, mode="bilinear")
    assert float((again - pictures).abs().mean()) < 0.03
