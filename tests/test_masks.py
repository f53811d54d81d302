"""Mask files, outlines and run lengths against pixels known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

from data_folders import SIZE, disc, save, speckle
from lmsfe_sam.data.masks.files import EmptyMaskError, label_pixels, read_label_map
from lmsfe_sam.data.masks.outlines import decode_run_lengths, draw_polygon
from lmsfe_sam.data.masks.reading import (
    SizeMismatchError,
    nearest_indices,
    record_labels,
    record_mask,
    resize_mask,
)
from lmsfe_sam.errors import InputError

LESION = disc()
SIZES = st.integers(1, 90)


def read_mask(path: Path) -> np.ndarray:
    return read_label_map(path).labels != 0


def binarise(pixels: np.ndarray, name: str) -> np.ndarray:
    return label_pixels(pixels, name).labels != 0


@pytest.mark.parametrize(
    "pixels",
    [
        LESION,
        LESION.astype(np.uint8),
        np.uint8(LESION) * 255,
        np.uint8(LESION) * np.uint8(200) + np.uint8(LESION) * np.uint8(40),  # {0, 240}
        LESION.astype(np.uint16) * 65535,
        LESION.astype(np.uint16),
        np.dstack([np.uint8(LESION) * 255] * 3),
        np.dstack([*[np.uint8(LESION) * 255] * 3, np.full(SIZE, 255, np.uint8)]),
        np.dstack([np.uint8(LESION) * 255, np.zeros((*SIZE, 2), np.uint8)]),  # drawn in red
    ],
    ids=["1-bit", "0-1", "0-255", "0-240", "16-bit", "16-bit 0-1", "RGB", "RGBA", "red"],
)
def test_every_kind_of_mask_file_gives_the_same_mask(tmp_path: Path, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", pixels)), LESION)


def test_a_colour_on_white_is_the_lesion(tmp_path: Path) -> None:
    pixels = np.full((*SIZE, 3), 255, np.uint8)
    pixels[LESION] = (255, 0, 0)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", pixels)), LESION)
    Image.fromarray(pixels).save(tmp_path / "m.jpg", quality=90, subsampling=0)
    assert np.mean(read_mask(tmp_path / "m.jpg") != LESION) < 0.01


@pytest.mark.parametrize(("outside", "inside"), [(128, 255), (200, 255), (10, 20), (254, 0)])
def test_of_two_values_the_higher_is_the_lesion(tmp_path: Path, outside: int, inside: int) -> None:
    pixels = np.where(LESION, inside, outside).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", pixels)), (inside > outside) == LESION)


def test_of_two_colours_that_of_the_pictures_border_is_outside(tmp_path: Path) -> None:
    pixels = np.full((*SIZE, 3), (0, 0, 255), np.uint8)
    pixels[LESION] = (255, 0, 0)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", pixels)), LESION)
    pixels[:5, :5] = (0, 255, 0)
    with pytest.raises(InputError, match=r"m\.png' has 3 colours, none of which is black or white"):
        read_mask(save(tmp_path / "m.png", pixels))


@pytest.mark.parametrize("colour", [(255, 0, 0), (200, 0, 100), (255, 255, 255)])
def test_one_colour_everywhere_is_a_lesion_that_fills_the_picture(
    tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    assert read_mask(save(tmp_path / "m.png", np.full((*SIZE, 3), colour, np.uint8))).all()


def test_an_alpha_channel_that_is_0_everywhere_hides_nothing(tmp_path: Path) -> None:
    pixels = np.dstack([*[np.uint8(LESION) * 255] * 3, np.zeros(SIZE, np.uint8)])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", pixels)), LESION)


@pytest.mark.parametrize("inside", [64, 128, 200])
def test_a_soft_border_of_a_mask_that_is_not_white(tmp_path: Path, inside: int) -> None:
    large = disc((200, 200), 60)
    soft = gaussian_filter(large.astype(float), 1.5)
    path = save(tmp_path / "m.png", np.rint(soft * inside).astype(np.uint8))
    assert np.mean(read_mask(path) != large) < 0.005


@pytest.mark.parametrize("palette", [False, True])
def test_the_border_of_pascal_voc_belongs_to_no_class(tmp_path: Path, palette: bool) -> None:
    pixels = np.uint8(LESION)
    ring = binary_dilation(LESION, iterations=3) & ~LESION
    pixels[ring] = 255
    picture = Image.fromarray(pixels)
    if palette:
        picture.putpalette([0, 0, 0, 128, 0, 0, *[0] * 759, 224, 224, 192])
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), LESION)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 20, 20)])
def test_a_lesion_in_the_alpha_channel(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    pixels = np.dstack([np.full((*SIZE, 3), colour, np.uint8), np.uint8(LESION) * 255])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", pixels)), LESION)


def test_a_palette_mask(tmp_path: Path) -> None:
    Image.fromarray(np.uint8(LESION) * 255).convert("P").save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), LESION)


def test_a_jpeg_mask_is_cut_at_127(tmp_path: Path) -> None:
    large = disc((400, 400), 120)
    Image.fromarray(np.uint8(large) * 255).save(tmp_path / "m.jpg", quality=60)
    raw = np.asarray(Image.open(tmp_path / "m.jpg"))
    assert len(np.unique(raw)) > 2
    np.testing.assert_array_equal(read_mask(tmp_path / "m.jpg"), raw > 127)
    assert np.mean(read_mask(tmp_path / "m.jpg") != large) < 0.005


def test_the_threshold_itself_is_outside() -> None:
    pixels = np.zeros((20, 20), np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[0, 2] = 127, 128, 255
    assert binarise(pixels, "m").sum() == 2


@pytest.mark.parametrize("grey", [32, 120, 223])
def test_more_than_one_percent_of_grey_is_no_mask(grey: int) -> None:
    pixels = np.zeros((100, 100), np.uint8)
    pixels[:50] = 255
    pixels[99] = grey  # one percent exactly
    assert binarise(pixels, "m")[:50].all()
    pixels[98, 0] = grey
    with pytest.raises(InputError, match=r"'photo\.png' is no mask.*between 32 and 223"):
        binarise(pixels, "photo.png")


@pytest.mark.parametrize("grey", [31, 224])
def test_greys_beyond_the_line_do_not_count(grey: int) -> None:
    pixels = np.full((10, 10), grey, np.uint8)
    pixels[0, 0] = 255
    assert binarise(pixels, "m").sum() == (100 if grey > 127 else 1)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16])
def test_an_all_black_mask_is_named(tmp_path: Path, dtype: type) -> None:
    image = save(tmp_path / "image.png", np.zeros((9, 9), np.uint8))
    record = {"image": image, "label": save(tmp_path / "night.png", np.zeros((9, 9), dtype))}
    with pytest.raises(EmptyMaskError, match=r"night\.png' is all black"):
        record_mask(record, (9, 9))


def test_a_real_image_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no mask"):
        read_mask(save(tmp_path / "image.png", speckle(3)))


def test_several_files_are_united_or_kept_apart(tmp_path: Path) -> None:
    parts = [disc(radius=6, centre=(15, 15)), disc(radius=5, centre=(40, 50))]
    record = {
        "image": "i.png",
        "label": [str(save(tmp_path / f"m_{k}.png", part)) for k, part in enumerate(parts)],
    }
    np.testing.assert_array_equal(record_mask(record, SIZE), parts[0] | parts[1])
    for (_, made), part in zip(record_labels(record, SIZE), parts, strict=True):
        np.testing.assert_array_equal(made, part)


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    record = {"image": "i.png", "label": str(save(tmp_path / "m.png", LESION))}
    with pytest.raises(
        SizeMismatchError, match=r"'i\.png' is 40 x 30 pixels and its mask '.*m\.png' 72 x 60"
    ):
        record_mask(record, (30, 40))


def test_a_record_without_mask_is_named() -> None:
    with pytest.raises(InputError, match=r"'i\.png' has no mask"):
        record_mask({"image": "i.png", "label": []}, SIZE)


# --- outlines -------------------------------------------------------------------------------------


def test_a_polygon_takes_the_pixels_whose_centres_it_holds() -> None:
    corners = np.array([[2.0, 1.0], [6.0, 1.0], [6.0, 4.0], [2.0, 4.0]])
    expected = np.zeros((6, 9), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(draw_polygon(corners, (6, 9)), expected)


def test_a_polygon_may_leave_the_image() -> None:
    corners = np.array([[-5.0, -5.0], [3.0, -5.0], [3.0, 2.0], [-5.0, 2.0]])
    expected = np.zeros((6, 9), bool)
    expected[:2, :3] = True
    np.testing.assert_array_equal(draw_polygon(corners, (6, 9)), expected)


def test_outlines_of_both_kinds_are_united() -> None:
    counts = [0, 2, SIZE[0] * SIZE[1] - 2]
    outlines = [[10, 20, 30, 20, 30, 45, 10, 45], {"size": list(SIZE), "counts": counts}]
    mask = record_mask({"image": "i.png", "label": [], "outlines": json.dumps(outlines)}, SIZE)
    expected = np.zeros(SIZE, bool)
    expected[20:45, 10:30] = True
    expected[:2, 0] = True  # down the first column
    np.testing.assert_array_equal(mask, expected)


def test_an_outline_that_holds_nothing_is_named() -> None:
    record = {"image": "i.png", "outlines": json.dumps([[500, 500, 510, 500, 510, 510]])}
    with pytest.raises(EmptyMaskError, match=r"'i\.png' encloses no pixel"):
        record_mask(record, SIZE)


def test_compressed_run_lengths_as_pycocotools_writes_them() -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:30, 10:13] = True
    mask[2, 20] = True
    mask[38:, 59] = True
    made = decode_run_lengths({"size": [40, 60], "counts": "e<i0?000e8XOgX11"}, "i")
    np.testing.assert_array_equal(made, mask)


def _compress(runs: list[int]) -> str:
    """The inverse, written from the format's description."""
    text = ""
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text += chr(48 + group + (32 if more else 0))
            if not more:
                break
    return text


@given(SIZES, SIZES, st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_run_lengths_of_any_mask(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    column_by_column = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    changes = np.flatnonzero(column_by_column[1:] != column_by_column[:-1])
    runs = np.diff(np.concatenate([[0], changes])).tolist()
    for counts in (runs, _compress(runs)):
        np.testing.assert_array_equal(
            decode_run_lengths({"size": [height, width], "counts": counts}, "i"), mask
        )


def test_run_lengths_of_another_size_are_named() -> None:
    with pytest.raises(InputError, match=r"'i\.png' cover 5 pixels and not 2 x 3"):
        decode_run_lengths({"size": [2, 3], "counts": [2, 3]}, "i.png")


# --- resizing -------------------------------------------------------------------------------------


@given(SIZES, SIZES, SIZES, SIZES)
@settings(max_examples=60, deadline=None)
def test_resizing_is_pils_nearest_neighbour(height: int, width: int, rows: int, columns: int) -> None:
    mask = np.random.default_rng(height * 100 + width).random((height, width)) < 0.5
    picture = Image.fromarray(np.uint8(mask)).resize((columns, rows), Image.Resampling.NEAREST)
    # PIL computes in floating point and may differ where a centre falls on an edge exactly.
    ties = [
        [(2 * i + 1) * source % (2 * target) == 0 for i in range(target)]
        for source, target in ((height, rows), (width, columns))
    ]
    sure = ~np.logical_or.outer(*(np.array(tie) for tie in ties))
    made = resize_mask(mask, (rows, columns))
    np.testing.assert_array_equal(made[sure], np.asarray(picture, bool)[sure])


def test_nearest_indices_by_hand() -> None:
    assert nearest_indices(6, 3).tolist() == [1, 3, 5]
    assert nearest_indices(3, 6).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_bright_speckle_of_a_picture_is_no_lesion_with_a_soft_border() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    with pytest.raises(InputError, match="is no mask"):
        binarise(noise, "noise.png")
