"""The kit for drawings: letters of many languages, smooth lines, axes with numbers."""

import math
import unicodedata

import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from PIL import ImageColor

from fonts import subset

INK = "#ffffff"
PAPER = "#000000"


@pytest.fixture
def drawing(pack):
    return pack.nodes.drawing


@pytest.fixture
def fonts(drawing):
    return drawing.fonts


@pytest.fixture
def axes(drawing):
    return drawing.axes


@pytest.fixture
def paper(drawing):
    """A black canvas."""

    def paper(width=200, height=100):
        return drawing.canvas.Canvas(width, height, PAPER)

    return paper


@pytest.fixture
def written(paper):
    """How bright each pixel is where a text is written in white, 0 to 1."""

    def written(text, size=24, at=(20, 60), anchor="ls", width=400):
        canvas = paper(width, 100)
        canvas.text(at, text, size, anchor, INK)
        return brightness(canvas)

    return written


def brightness(canvas):
    image = canvas.image()
    assert image.shape == (1, canvas.height, canvas.width, 3)
    assert image.dtype == torch.float32
    return image[0].mean(dim=2).numpy()


def box_of(picture, least=0.1):
    """Left, top, right and bottom of what is drawn."""
    down, across = np.nonzero(picture > least)
    return across.min(), down.min(), across.max() + 1, down.max() + 1


# Letters.


def test_fonts_have_the_characters_that_they_shall_have():
    for font in subset.FONTS:
        has = {chr(code) for code in TTFont(font.file).getBestCmap()}
        wanted = {each for each in font.characters() if unicodedata.category(each)[0] in "LNPSM"}
        assert len(wanted - has) < 0.06 * len(wanted), font.file.name
        assert font.file.stat().st_size < 3 * 2**20
    letters, chinese = ({chr(c) for c in TTFont(f.file).getBestCmap()} for f in subset.FONTS)
    assert subset.between((0x20, 0x7E), (0xA0, 0x24F), (0x400, 0x4FF)) <= letters
    assert set("αβγδεσρΣΩ−×·≤≥∥⊥‖→∈√∞²₁…–—“”€") <= letters
    assert len(subset.hanzi()) > 6763 and subset.hanzi() <= chinese
    assert set("，。、；：！？（）《》【】「」〜ー①⑳ひらカナ") <= chinese


@pytest.mark.parametrize("font", subset.FONTS, ids=lambda font: font.file.stem)
def test_fonts_have_their_licences_beside_them(font):
    licence = font.file.with_name(f"{font.file.stem}.LICENSE.txt").read_text(encoding="utf-8")
    assert font.file.name in licence and font.family in licence
    assert "Permission is hereby granted, free of charge" in licence


MISSING = "한"


@pytest.mark.parametrize(
    "text",
    [
        "éÅßøñ",
        "ŁőŘșğİ",
        "ǺẞỆ",
        "Жяїѓ",
        "αΩΣ",
        "σρ−×·≤∥⊥‖",
        "中国體灣龜",
        "ひらカナ",
        "，。（）《》①⑳",
    ],
)
def test_letters_have_shapes_of_their_own(written, text):
    shapes = [written(each).tobytes() for each in (*text, MISSING, " ")]
    assert len(set(shapes)) == len(shapes)


@pytest.mark.parametrize("text", ["😀", "한국어", "\U000e0041x", "ᚠ"])
def test_what_no_font_has_is_seen_as_a_box(written, text):
    assert written(text).sum() > 20


def test_accents_join_their_letters(written):
    for one, two in [("é", "e\u0301"), ("ệ", "e\u0323\u0302"), ("が", "か\u3099")]:
        np.testing.assert_array_equal(written(one), written(two))


def test_what_only_steers_other_characters_takes_no_room(fonts, written):
    np.testing.assert_array_equal(written("a\u200b\ufe0f\u00adb"), written("ab"))
    np.testing.assert_array_equal(written("a\n\tb"), written("a b"))
    assert fonts.text_size("👨\u200d👩", 20) == fonts.text_size("한한", 20)


def test_punctuation_that_both_fonts_have_is_that_of_the_words_before(fonts):
    chinese, latin = (fonts.text_size(text + "…", 20)[0] for text in ("中", "m"))
    assert chinese - fonts.text_size("中", 20)[0] == 20
    assert latin - fonts.text_size("m", 20)[0] < 20


@pytest.mark.parametrize("text", ["weak_scale 1.5", "弱模型引导", "中文 and English，混合 σ", "W"])
@pytest.mark.parametrize("size", [9, 24, 40.5])
def test_measured_width_is_that_of_what_is_drawn(fonts, written, text, size):
    left, _, right, _ = box_of(written(text, size, width=800))
    width, height = fonts.text_size(text, size)
    assert height > size
    assert abs(left - 20) < 0.15 * size + 1
    assert 20 + width - 0.2 * size - 1 < right <= 20 + width + 1


def test_anchors(written):
    text, at = "Hg中", (200, 50)
    across = {a: box_of(written(text, 24, at, a + "s")) for a in "lmr"}
    assert abs(across["l"][0] - 200) <= 3 and abs(across["r"][2] - 200) <= 3
    assert abs(across["m"][0] + across["m"][2] - 400) <= 3
    down = {a: box_of(written(text, 24, at, "l" + a)) for a in "tb"}
    assert abs(down["t"][1] - 50) <= 1 and abs(down["b"][3] - 50) <= 1
    digits = {a: box_of(written("0", 24, at, "l" + a)) for a in "ams"}
    assert abs(digits["s"][3] - 50) <= 1
    assert abs(digits["m"][1] + digits["m"][3] - 100) <= 2
    assert 50 <= digits["a"][1] <= 56


TEXTS = [
    "one two three four five six seven",
    "引导强度为一点五，也就是说，比不引导时多出一半。",
    "weak_scale 1.5（弱模型）and more words，再加一些中文",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "a  b\n\nc " + "m" * 50,
    "",
    "   ",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", [10, 60, 200, 10000])
def test_wrapped_lines_fit_and_lose_nothing(fonts, text, width):
    lines = fonts.wrapped(text, 20, width)
    assert lines and "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        assert len(line) <= 1 or fonts.text_size(line, 20)[0] <= width
        assert line == line.strip()


def test_lines_break_where_languages_do(fonts):
    assert fonts.wrapped("one two\nthree", 20, 1000) == ["one two", "three"]
    wide = fonts.text_size("one two", 20)[0]
    assert fonts.wrapped("one two three", 20, wide) == ["one two", "three"]
    assert fonts.wrapped("弱模型引导", 20, 60) == ["弱模型", "引导"]
    # A mark stays with what is before it, an opening one with what comes after it.
    assert fonts.wrapped("弱模型，引导", 20, 60) == ["弱模", "型，引", "导"]
    assert fonts.wrapped("弱模（型）引", 20, 60) == ["弱模", "（型）", "引"]
    assert fonts.wrapped("a weakscale", 20, fonts.text_size("weaks", 20)[0]) == [
        "a",
        "weaks",
        "cale",
    ]


# Lines, dots, areas.


def test_lines_are_smooth_and_as_wide_as_asked_for(paper):
    canvas = paper()
    canvas.line([(20, 20.25), (180, 70)], INK, 4)
    column = brightness(canvas)[:, 100]
    assert ((column > 0.1) & (column < 0.9)).any()
    slant = math.hypot(160, 49.75) / 160
    assert abs(column.sum() - 4 * slant) < 0.8


def test_line_has_a_gap_where_there_is_no_number(paper):
    canvas = paper()
    canvas.line([(10, 50), (60, 50), (80, math.nan), (100, 50), (150, 50)], INK, 2)
    row = brightness(canvas)[50]
    assert row[15:58].min() > 0.9 and row[103:148].min() > 0.9
    assert row[64:97].max() == 0


@pytest.mark.parametrize("points", [[], [(5, 5)], [(5, math.nan), (math.nan, 5)]])
def test_line_of_less_than_two_points_is_none(paper, points):
    canvas = paper()
    canvas.line(points, INK, 2, dashed=True)
    assert brightness(canvas).max() == 0


def test_dashes_follow_the_line(paper):
    canvas = paper()
    canvas.line([(10, 10), (190, 10), (190, 90)], INK, 2, dashed=True)
    picture = brightness(canvas)
    for part in (picture[10, 10:190], picture[12:90, 190]):
        changes = np.flatnonzero(np.diff((part > 0.5).astype(int)))
        assert len(changes) > 5 and np.ptp(np.diff(changes)[::2]) <= 2
        assert 0.4 < part.mean() < 0.8


def test_lines_do_not_add_up_and_dots_do(paper):
    canvas = paper()
    canvas.lines([[(0, 20), (200, 20)], [(100, 0), (100, 40)]], INK, 4, opacity=0.5)
    canvas.dots([(50, 70), (50, 70), (150, 70)], INK, 6, opacity=0.5)
    picture = brightness(canvas)
    assert picture[20, 100] == pytest.approx(picture[20, 30], abs=0.01)
    assert picture[20, 30] == pytest.approx(0.5, abs=0.01)
    assert picture[70, 50] == pytest.approx(0.75, abs=0.01)
    assert picture[70, 150] == pytest.approx(0.5, abs=0.01)


def test_dots_are_round_and_lie_where_they_shall(paper):
    canvas = paper(100, 100)
    canvas.dots(np.array([[30.5, 60.0], [np.nan, 3], [1e9, -1e9], [0.0, 0.0]]), INK, 8)
    picture = brightness(canvas)
    corner, dot = picture[:20, :20].sum(), picture[40:].sum()
    assert dot == pytest.approx(math.pi * 64, rel=0.03)
    assert corner == pytest.approx(math.pi * 64 / 4, rel=0.05)
    assert picture.sum() == pytest.approx(corner + dot)
    down, across = np.indices(picture.shape) + 0.5
    weights = np.where(down > 40, picture, 0)
    assert np.average(across, weights=weights) == pytest.approx(30.5, abs=0.05)
    assert np.average(down, weights=weights) == pytest.approx(60.0, abs=0.05)


def test_many_dots_tell_where_there_are_most(paper):
    points = np.random.default_rng(0).normal((100, 50), (20, 10), (10000, 2))
    canvas = paper()
    canvas.dots(points, INK, 1.5, opacity=0.02)
    picture = brightness(canvas)
    assert 0.9 > picture[45:55, 90:110].mean() > 2 * picture[45:55, 130:150].mean() > 0
    assert picture[85:].max() < 0.1


def test_arrows_have_their_tips_at_their_ends(paper):
    canvas = paper()
    canvas.arrows([(20, 30), (20, 70), (5, 5)], [(100, 30), (35, 70), (5.1, 5)], INK, 2)
    picture = brightness(canvas)
    for row, end in ((slice(0, 50), 100), (slice(50, 100), 35)):
        left, top, right, bottom = box_of(picture[row])
        assert abs(left - 20) <= 1 and abs(right - end) <= 1
        assert bottom - top > 4
    heights = (picture > 0.5).sum(axis=0)
    assert heights[96] < heights[92] and heights[85] <= 3
    assert picture[:15].max() == 0


def test_areas_and_boxes(paper):
    canvas = paper()
    canvas.polygon([(10, 10), (50, 10), (50, 50), (10, 50)], "#808080")
    canvas.rectangle((100, 10, 140, 50), "#808080")
    picture = brightness(canvas)
    assert picture[12:48, 12:48] == pytest.approx(128 / 255)
    assert box_of(picture[:, 90:]) == (10, 10, 50, 50)
    assert picture[10:50, 100:140] == pytest.approx(128 / 255)


def test_pictures_fill_their_boxes(paper):
    array = np.linspace(0, 1, 12).reshape(2, 2, 3)
    canvas = paper()
    canvas.paste((10, 20, 50, 60), array, smooth=False)
    canvas.paste((100, 20, 140, 60), array)
    image = canvas.image()[0].numpy()
    shown = image[20:60, 10:50].reshape(2, 20, 2, 20, 3)
    np.testing.assert_allclose(
        shown, np.broadcast_to(array[:, None, :, None], shown.shape), atol=0.01
    )
    smooth = image[40, 100:140, 0]
    assert (np.diff(smooth) >= 0).all() and np.diff(smooth).max() < 0.05
    assert box_of(image[:, 90:150].mean(axis=2), 0.0) == (10, 20, 50, 60)


def test_nothing_is_drawn_outside_of_a_clipped_box(paper):
    canvas = paper()
    with canvas.clipped((50, 20, 150, 80)):
        canvas.line([(0, 50), (200, 50)], INK, 6)
        canvas.line([(100, 0), (100, 100)], INK, 6)
        canvas.dots([(50, 50)], INK, 10)
        canvas.text((140, 40), "outside", 20, "ls", INK)
    inside = brightness(canvas)
    assert box_of(inside, 0.0) == (50, 20, 150, 80)
    canvas.dots([(10, 90)], INK, 4)
    assert brightness(canvas)[90, 10] == 1


def test_far_away_points_are_no_trouble(paper):
    canvas = paper()
    canvas.line([(0, 50), (1e12, 50), (-1e12, 50)], INK, 2)
    canvas.polygon([(-1e15, 80), (1e15, 80), (1e15, 1e15), (-1e15, 1e15)], INK)
    picture = brightness(canvas)
    assert picture[50].min() > 0.9 and picture[82:].min() == 1 and picture[:48].max() == 0


# Axes.


def test_values_lie_where_the_edges_say(axes, paper):
    plot = axes.Axes(paper(), (20, 10, 120, 60), x=(0, 10), y=(-1, 4))
    assert plot.at(0, -1).tolist() == [20, 60] and plot.at(10, 4).tolist() == [120, 10]
    assert plot.at(5, np.array([0.0, 1.5])).tolist() == [[70, 50], [70, 35]]


@pytest.mark.parametrize("least, most", [(0, 1), (-3e-7, 2e-7), (5e8, 5.1e8), (1, 2), (0.97, 63.0)])
def test_ticks_are_round_and_apart(axes, least, most):
    for about in (3, 5, 8):
        found = axes.ticks(*axes.axis(least, most), about)
        assert about - 2 <= len(found) <= about + 2
        values = np.array([value for value, _ in found])
        assert np.ptp(np.diff(values)) < 1e-6 * (most - least)
        assert len({label for _, label in found}) == len(found)
        for value, label in found:
            assert float(label) == pytest.approx(value, abs=1e-4 * (most - least))


def test_axis_has_room_even_for_a_single_value(axes):
    for value in (0.0, 3.0, -1e-9):
        low, high = axes.axis(value, value)
        assert low < value < high
    assert axes.axis(0, 1, 0.5) == (-0.5, 1.5)


def test_numbers_below_do_not_touch(axes, paper):
    for labels in (4, 12, 60):
        canvas = paper(400, 100)
        plot = axes.Axes(canvas, (30, 10, 370, 60), x=(0, labels - 1), y=(0, 1))
        plot.grid([(i, f"{i}000") for i in range(labels)], [], 16)
        below = brightness(canvas)[66:90] > 0.3
        columns = np.flatnonzero(below.any(axis=0))
        gaps = np.diff(columns)
        count = 1 + (gaps > 5).sum()
        assert 2 <= count <= labels
        assert count == 4 or labels > 4
        assert columns.max() > 370, "the last number is missing"


def test_curve_and_dots_lie_at_their_values(axes, paper):
    canvas = paper()
    plot = axes.Axes(canvas, (0, 0, 200, 100), x=(0, 4), y=(0, 100))
    values = np.array([20.0, 20.0, np.nan, 80.0, 80.0])
    plot.curve(np.arange(5.0), values, INK)
    picture = brightness(canvas)
    assert picture[80, 5:48].min() > 0.9 and picture[20, 152:198].min() > 0.9
    assert picture[:, 52:148].max() == 0
    plot.dots(np.arange(5.0), values, INK, radius=6)
    assert brightness(canvas)[15, 150] == 1
    assert brightness(canvas)[:, 60:140].max() == 0


def test_band_lies_between_its_curves(axes, paper):
    canvas = paper()
    plot = axes.Axes(canvas, (0, 0, 200, 100), x=(0, 1), y=(0, 100))
    plot.band(np.array([0.0, 1.0]), np.array([10.0, 30.0]), np.array([50.0, 90.0]), INK)
    filled = brightness(canvas).sum(axis=0)
    assert filled[2] == pytest.approx(40, abs=1.5) and filled[197] == pytest.approx(60, abs=1.5)


def test_title_and_label_lie_beside_the_plot(axes, paper):
    canvas = paper(400, 200)
    plot = axes.Axes(canvas, (50, 60, 350, 140), x=(0, 1), y=(0, 1))
    plot.grid([(0, "0"), (1, "1")], [(0, "0"), (1, "1")], 14)
    before = brightness(canvas)
    plot.title("title 标题", 20, INK)
    plot.x_label("label 标签", 20, INK)
    added = brightness(canvas) - before
    assert box_of(added[:100])[0] >= 49 and box_of(added[:100])[3] < 60
    left, top, right, _ = box_of(added[100:])
    assert abs(left + right - 400) < 6
    assert top + 100 > box_of(before, 0.3)[3]


@pytest.mark.parametrize("width", [900, 300, 150])
def test_legend_says_how_high_it_is(axes, paper, width):
    names = ["weak", "negative prompt", "弱模型引导的长度", "a longer name of one of them"]
    entries = [(name, INK, i % 2 == 0) for i, name in enumerate(names)]
    canvas = paper(1000, 400)
    height = axes.legend(canvas, (10, 20), entries, 20, width)
    left, top, right, bottom = box_of(brightness(canvas))
    assert left >= 9 and right <= 10 + width + 1
    assert top >= 20 and 20 + height - 27 < bottom <= 20 + height + 1
    assert (height < 30) == (width == 900)


def test_colours_of_curves_differ_in_lightness_or_hue(drawing):
    colours = [ImageColor.getrgb(colour) for colour in drawing.style.SERIES]
    paper = ImageColor.getrgb(drawing.style.PAPER)
    assert len(set(colours)) == 6
    # Contrast of graphics, as WCAG 2 asks for it.
    for colour in colours:
        assert (luminance(colour) + 0.05) / (luminance(paper) + 0.05) > 3


def luminance(colour):
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))
