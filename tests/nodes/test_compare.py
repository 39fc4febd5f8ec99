"""Guidance Sweep combines settings, and Labelled Grid shows what came of them."""

import itertools

import comfy.model_management as management
import numpy as np
import pytest
import torch
from PIL import ImageColor

from support.rig import call, untouched


@pytest.fixture
def node(comfy_nodes):
    """Call a node with its defaults, some of them changed; return all that it puts out."""

    def node(node_id, **inputs):
        given = untouched(comfy_nodes[node_id]) | inputs
        if node_id == "BadVersionLabelledGrid":
            # As the graph does it for a node that takes lists.
            given = {name: each if name == "images" else [each] for name, each in given.items()}
        return call(comfy_nodes[node_id], **given)

    return node


@pytest.fixture
def sweep(node):
    return lambda **inputs: node("BadVersionGuidanceSweep", **inputs)


@pytest.fixture
def grid(node):
    """The sheet for a list of images, as an array ``[h, w, 3]``."""

    def grid(images, **inputs):
        (sheet,) = node("BadVersionLabelledGrid", images=images, **inputs)
        assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[3] == 3
        assert sheet.dtype == torch.float32 and sheet.min() >= 0 and sheet.max() <= 1
        return sheet[0].numpy()

    return grid


# The sweep.


def test_sweep_has_every_combination_in_reading_order(sweep):
    a, b, late = object(), object(), ("late",)
    inputs = {"scales": "1, 2.5", "seeds": "7-9", "weak_model_2": a, "weak_model_4": b}
    *lists, plan = sweep(**inputs, schedule_1=late, columns="scale")
    assert list(zip(*lists, strict=True)) == [
        (scale, seed, model, late)
        for seed, model, scale in itertools.product((7, 8, 9), (a, b), (1.0, 2.5))
    ]
    assert plan.columns == ("scale 1", "scale 2.5")
    assert plan.rows == tuple(
        f"seed {seed}\nweak model {number}" for seed in (7, 8, 9) for number in (1, 2)
    )
    assert plan.common == "schedule 1"


@pytest.mark.parametrize("columns", ["scale", "seed", "weak model", "schedule"])
def test_any_setting_can_go_across(sweep, columns):
    connected = {f"weak_model_{i}": f"m{i}" for i in (1, 2)} | {"schedule_1": ("s",)}
    inputs = {"scales": "1, 2, 3", "seeds": "1-4", "weak_model_names": "m1, m2"}
    scales, seeds, models, schedules, plan = sweep(**inputs, **connected, columns=columns)
    names = {
        "scale": [f"scale {each:g}" for each in scales],
        "seed": [f"seed {each}" for each in seeds],
        "weak model": models,
        "schedule": ["schedule 1" for _ in schedules],
    }
    assert len(plan.rows) * len(plan.columns) == 24
    for number, (row, column) in enumerate(itertools.product(plan.rows, plan.columns)):
        written = {*row.split("\n"), column, plan.common} - {""}
        assert written == {each[number] for each in names.values()}


def test_nothing_connected_to_a_sweep_is_nothing_connected_to_the_guider(sweep):
    scales, _, models, schedules, plan = sweep()
    assert set(models) == {None} and set(schedules) == {()}
    assert scales[:5] == [1.0, 1.5, 2.0, 3.0, 1.0]
    assert plan.rows == ("seed 1", "seed 2", "seed 3") and plan.common == ""


def test_a_single_setting_is_a_sweep_as_well(sweep):
    *lists, plan = sweep(scales="2", seeds="0")
    assert lists == [[2.0], [0], [None], [()]]
    assert (plan.columns, plan.rows, plan.common) == (("scale 2",), ("",), "seed 0")


@pytest.mark.parametrize(
    ("typed", "numbers"),
    [
        ("1,2", [1, 2]),
        (" 1.5 2\t.25 ", [1.5, 2, 0.25]),
        ("1，2、3；4;100", [1, 2, 3, 4, 100]),
        ("0", [0]),
        ("１.５", [1.5]),
    ],
)
def test_scales_as_they_are_typed(sweep, typed, numbers):
    scales, *_ = sweep(scales=typed, seeds="1")
    assert scales == numbers


@pytest.mark.parametrize(
    ("typed", "numbers"),
    [
        ("3, 1", [3, 1]),
        ("1-3", [1, 2, 3]),
        ("1 - 2，5–6、8～9 4~4", [1, 2, 5, 6, 8, 9, 4]),
        ("18446744073709551615", [2**64 - 1]),
    ],
)
def test_seeds_as_they_are_typed(sweep, typed, numbers):
    _, seeds, *_ = sweep(scales="1", seeds=typed)
    assert seeds == numbers


@pytest.mark.parametrize(
    ("inputs", "name", "came"),
    [
        ({"scales": ""}, "scales", "nothing"),
        ({"scales": ", ，"}, "scales", "nothing"),
        ({"scales": "1, two"}, "scales", "'two'"),
        ({"scales": "-1"}, "scales", "'-1'"),
        ({"scales": "100.5"}, "scales", "'100.5'"),
        ({"scales": "nan"}, "scales", "'nan'"),
        ({"scales": "1, 2, 1.0"}, "scales", "1.0 2 times"),
        ({"seeds": ""}, "seeds", "nothing"),
        ({"seeds": "1.5"}, "seeds", "'1.5'"),
        ({"seeds": "1-2-3"}, "seeds", "'1-2-3'"),
        ({"seeds": "18446744073709551616"}, "seeds", "18446744073709551616"),
        ({"seeds": "1" * 5000}, "seeds", "'111"),
        ({"seeds": "4-1"}, "seeds", "the range 4-1"),
        ({"seeds": "0-999999999999"}, "seeds", "the range 0-999999999999"),
        ({"seeds": "1-3, 2"}, "seeds", "2 2 times"),
        ({"seeds": "1-100"}, "seeds", "400 images, with all other settings"),
        ({"scales": " ".join(map(str, range(90)))}, "scales", "270 images"),
        ({"weak_model_names": "a"}, "weak_model_names", "1 for 0 that are connected"),
        ({"weak_model_names": "a, b", "weak_model_3": 1}, "weak_model_names", "2 for 1 that are"),
        ({"schedule_names": "a", "schedule_1": 1, "schedule_2": 1}, "schedule_names", "1 for 2"),
        ({"columns": "rows"}, "columns", "'rows'"),
        ({"language": "Deutsch"}, "language", "'Deutsch'"),
    ],
)
def test_what_a_sweep_cannot_use_is_an_error(refused, inputs, name, came):
    got, _ = refused("BadVersionGuidanceSweep", name, **inputs)
    assert got.startswith(came)


def test_names_may_have_commas_where_semicolons_part_them(sweep):
    connected = {"weak_model_1": 1, "weak_model_2": 2, "columns": "weak model"}
    for typed in ("4 bits, 8 blocks; depth 2", "4 bits, 8 blocks；depth 2"):
        *_, plan = sweep(weak_model_names=typed, **connected)
        assert plan.columns == ("4 bits, 8 blocks", "depth 2")
    *_, plan = sweep(weak_model_names="小模型，噪声", **connected)
    assert plan.columns == ("小模型", "噪声")


def test_captions_in_chinese(sweep):
    *_, plan = sweep(weak_model_1=1, weak_model_2=2, schedule_1=3, language="中文")
    assert plan.columns[0] == "引导强度 1" and plan.rows[0] == "种子 1\n弱模型 1"
    assert plan.common == "调度 1"


# The sheet.


PAPER = np.array(ImageColor.getrgb("#1f1f23")) / 255


def flat(*levels, size=(8, 8), channels=3):
    """A batch of even images, one for each brightness."""
    return torch.stack([torch.full((*size, channels), float(level)) for level in levels])


def areas(sheet, level):
    """Left, top, right and bottom of all that has a brightness."""
    found = np.abs(sheet - level).max(axis=2) < 1e-3
    down, across = np.nonzero(found)
    assert len(down), f"nothing of {level}"
    return across.min(), down.min(), across.max() + 1, down.max() + 1


def test_pictures_lie_in_reading_order_untouched(grid):
    images = [torch.rand(1, 30, 20, 3) for _ in range(5)]
    sheet = grid(images, columns=3, cell_size=0)
    for number, image in enumerate(images):
        places = [
            (top, left)
            for top in range(sheet.shape[0] - 29)
            for left in range(sheet.shape[1] - 19)
            if (sheet[top, left] == image[0, 0, 0].numpy()).all()
        ]
        ((top, left),) = places
        assert (sheet[top : top + 30, left : left + 20] == image[0].numpy()).all()
        row, column = divmod(number, 3)
        assert row == (top > 40) and column == left // 25


@pytest.mark.parametrize("size", [(8, 8), (64, 32), (700, 900)])
def test_cells_are_as_large_as_asked_for(grid, size):
    sheet = grid([flat(0.9, size=size), flat(0.8, size=size)], cell_size=96)
    for level in (0.9, 0.8):
        left, top, right, bottom = areas(sheet, level)
        assert max(right - left, bottom - top) == 96
        assert (bottom - top) / (right - left) == pytest.approx(size[0] / size[1], rel=0.02)


def test_pictures_of_a_batch_share_a_cell(grid):
    levels = np.linspace(0.5, 0.95, 9)
    sheet = grid([flat(*levels), flat(0.3)], cell_size=90)
    boxes = [areas(sheet, level) for level in levels]
    lefts, tops = ({box[i] for box in boxes} for i in (0, 1))
    assert len(lefts) == len(tops) == 3
    assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))
    assert abs(max(box[2] for box in boxes) - min(lefts) - 90) <= 2
    assert min(areas(sheet, 0.3)) > 0


def test_mosaic_of_wide_pictures_is_about_square(grid):
    sheet = grid([flat(*[0.9] * 6, size=(20, 60)), flat(0.3, size=(20, 60))], cell_size=0)
    left, top, right, bottom = areas(sheet, 0.9)
    assert (right - left, bottom - top) == (121, 62)


def test_single_batch_gives_each_picture_a_cell(grid, sweep):
    levels = (0.5, 0.6, 0.7, 0.8)
    apart = grid([flat(each) for each in levels], columns=2)
    np.testing.assert_array_equal(grid([flat(*levels)], columns=2), apart)
    *_, plan = sweep(scales="1, 2", seeds="1-2")
    apart = grid([flat(each) for each in levels], sweep=plan)
    np.testing.assert_array_equal(grid([flat(*levels)], sweep=plan), apart)


def test_any_sizes_and_channels_go_together(grid):
    images = [
        flat(0.9, size=(8, 16)),
        flat(0.7, size=(32, 4), channels=1),
        torch.cat([flat(1.0), flat(0.25, channels=1)], dim=3),
        torch.tensor([float("nan"), 7.0, -3.0]).expand(1, 8, 8, 3),
    ]
    sheet = grid(images, cell_size=0)
    assert areas(sheet, 0.9)[2] - areas(sheet, 0.9)[0] == 16
    assert areas(sheet, 0.7)[3] - areas(sheet, 0.7)[1] == 32
    for level in (0.25 + 0.75 * PAPER, [0.0, 1.0, 0.0]):
        left, top, right, bottom = areas(sheet, level)
        assert (right - left, bottom - top) == (8, 8)


def words(sheet, box):
    """Where in a box of the sheet something is written: left, top, right, bottom."""
    left, top, right, bottom = box
    part = np.abs(sheet[top:bottom, left:right] - PAPER).max(axis=2) > 0.1
    down, across = np.nonzero(part)
    assert len(down), "no words"
    return left + across.min(), top + down.min(), left + across.max() + 1, top + down.max() + 1


LONG = "an uncommonly long caption that has to be broken into lines 以及一些不带空格的中文说明"


@pytest.mark.parametrize("cell_size", [0, 48, 384])
@pytest.mark.parametrize("caption", ["a", LONG, "Donaudampfschifffahrtsgesellschaft", "引" * 30])
def test_words_stand_beside_the_pictures_and_are_never_cut_off(grid, caption, cell_size):
    images = [flat(0.1, size=(64, 64)) for _ in range(6)]
    sheet = grid(
        images,
        title=caption,
        column_captions="; ".join([caption] * 3),
        row_captions="; ".join([caption] * 2),
        columns=3,
        cell_size=cell_size,
    )
    left, top, right, bottom = areas(sheet, 0.1)
    height, width = sheet.shape[:2]
    for box in ((0, 0, width, top), (0, top, left, height)):
        words(sheet, box)
    for edge in (sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]):
        assert np.abs(edge - PAPER).max() < 0.01
    assert np.abs(sheet[top - 1, left:] - PAPER).max() < 0.01, "words touch the images below"
    assert np.abs(sheet[top:, left - 1] - PAPER).max() < 0.01, "words touch the images beside"
    assert right < width and bottom < height


def test_captions_are_where_they_belong(grid, sweep):
    *_, plan = sweep(scales="1, 2", seeds="1-2")
    images = [flat(level, size=(64, 64)) for level in (0.5, 0.6, 0.7, 0.8)]
    labelled, other = (
        grid(images, sweep=plan, column_captions=captions) for captions in ("", "scale 1, other")
    )
    differs = np.abs(labelled - other).max(axis=2) > 0.1
    down, across = np.nonzero(differs)
    left, top, right, _ = areas(labelled, 0.6)
    assert left <= across.min() and across.max() < right and down.max() < top
    rows = grid(images, sweep=plan, row_captions="seed 1, other")
    down, across = np.nonzero(np.abs(labelled - rows).max(axis=2) > 0.1)
    left, top, _, bottom = areas(labelled, 0.7)
    assert across.max() < left and top < down.min() and down.max() < bottom
    middle = (down.min() + down.max()) / 2
    assert abs(middle - (top + bottom) / 2) < 0.1 * (bottom - top)


def test_common_settings_are_written_once(grid, sweep):
    images = [flat(0.9, size=(64, 64))] * 2
    (*_, one), (*_, two) = (sweep(scales="1, 2", seeds=seed) for seed in ("3", "4"))
    sheets = [grid(images, sweep=plan) for plan in (one, two)]
    down, _ = np.nonzero(np.abs(sheets[0] - sheets[1]).max(axis=2) > 0.1)
    assert len(down) and down.max() < areas(sheets[0], 0.9)[1]


def test_words_can_be_read_where_the_sheet_is_shown_small(grid):
    """At a width of 450 pixels a capital is more than 7 high, on sheets of any size."""
    for size, count, columns in ((64, 12, 4), (1024, 2, 2), (200, 18, 6)):
        images = [flat(0.1, size=(size, size))] * count
        sheet = grid(images, column_captions=", ".join("H" * columns), columns=columns)
        _, top, _, bottom = words(sheet, (0, 0, sheet.shape[1], areas(sheet, 0.1)[1]))
        assert (bottom - top) * 450 / sheet.shape[1] > 7


def test_without_words_there_is_hardly_anything_but_pictures(grid):
    sheet = grid([flat(0.5, size=(64, 64))] * 4, columns=2, cell_size=0)
    assert sheet.shape[0] == sheet.shape[1] < 128 + 4 * 12


@pytest.mark.parametrize(
    ("inputs", "name", "came"),
    [
        ({"images": [torch.zeros(1, 8, 8, 2)]}, "images", "a tensor of shape [1, 8, 8, 2]"),
        ({"images": [torch.zeros(8, 8, 3)]}, "images", "a tensor of shape [8, 8, 3]"),
        ({"images": [torch.zeros(0, 8, 8, 3)]}, "images", "a tensor of shape [0, 8, 8, 3]"),
        ({"column_captions": "a, b"}, "column_captions", "2 for 3 columns"),
        ({"row_captions": "a, b"}, "row_captions", "2 for 1 rows"),
        ({"columns": 0}, "columns", "0"),
        ({"cell_size": 5000}, "cell_size", "5000"),
        ({"cell_size": 4096, "images": [flat(0.5)] * 30}, "cell_size", "a sheet of 18"),
        (
            {"cell_size": 0, "images": [torch.zeros(1).expand(1, 20000, 8, 3)]},
            "cell_size",
            "a sheet of 512 by 20504 pixels",
        ),
    ],
)
def test_what_a_sheet_cannot_show_is_an_error(refused, inputs, name, came):
    given = {"images": [flat(0.5)] * 3} | inputs
    got, _ = refused("BadVersionLabelledGrid", name, **given)
    assert got.startswith(came)


@pytest.mark.parametrize("count", [3, 5])
def test_images_that_do_not_fit_the_sweep_are_an_error(refused, sweep, count):
    *_, plan = sweep(scales="1, 2", seeds="1-2")
    got, expected = refused(
        "BadVersionLabelledGrid", "images", images=[flat(0.5)] * count, sweep=plan
    )
    assert got == f"{count} of them" and expected.startswith("4, one for each setting")


def test_cancel_ends_a_sheet(grid):
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        grid([flat(0.5)] * 3)
    assert not management.processing_interrupted()
