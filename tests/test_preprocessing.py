"""Arrays become tensors one way only, and coordinates follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD
from lmsfe_sam.predict.preprocessing import normalise, prepare, resize_image, to_rgb_uint8
from lmsfe_sam.prompts.coordinates import scale_boxes, scale_points

SIDES = st.integers(1, 4000)
SIZES = st.tuples(SIDES, SIDES)


class TestToRgb:
    @given(st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
    def test_grey_uint8_is_taken_as_it_is(self, grey: np.ndarray) -> None:
        rgb = to_rgb_uint8(grey)
        assert rgb.dtype == np.uint8
        assert rgb.shape == (*grey.shape, 3)
        for channel in range(3):
            np.testing.assert_array_equal(rgb[..., channel], grey)

    def test_rgb_uint8_keeps_its_channels(self) -> None:
        rgb = np.random.default_rng(0).integers(3, 200, (5, 7, 3), np.uint8)
        np.testing.assert_array_equal(to_rgb_uint8(rgb), rgb)

    def test_alpha_is_dropped(self) -> None:
        rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
        np.testing.assert_array_equal(to_rgb_uint8(rgba), rgba[..., :3])
        np.testing.assert_array_equal(to_rgb_uint8(rgba[..., 2:]), to_rgb_uint8(rgba[..., 2]))

    def test_alpha_has_no_part_in_the_stretch(self) -> None:
        rgba = np.zeros((2, 2, 4), np.uint16)
        rgba[0, 0, :3] = 1000
        rgba[..., 3] = 65535
        assert to_rgb_uint8(rgba)[0, 0].tolist() == [255, 255, 255]

    def test_one_channel(self) -> None:
        assert to_rgb_uint8(np.full((4, 5, 1), 9, np.uint8)).tolist() == np.full((4, 5, 3), 9).tolist()

    @pytest.mark.parametrize(
        "dtype", [np.int8, np.uint16, np.int16, np.int32, np.int64, np.float16, np.float64]
    )
    def test_other_types_are_stretched_to_the_full_range(self, dtype: type) -> None:
        grey = (
            np.array([[-100, 0], [50, 100]]).astype(dtype)
            if dtype != np.uint16
            else np.array([[0, 100], [150, 200]], dtype)
        )
        assert to_rgb_uint8(grey)[..., 0].tolist() == [[0, 128], [191, 255]]

    def test_sixteen_bits_keep_their_order(self) -> None:
        ramp = np.arange(0, 65536, 97, dtype=np.uint16)[None]
        grey = to_rgb_uint8(ramp)[0, :, 0].astype(int)
        assert grey[0] == 0
        assert grey[-1] == 255
        assert (np.diff(grey) >= 0).all()

    def test_bool_is_black_and_white(self) -> None:
        assert to_rgb_uint8(np.array([[True, False]]))[0, :, 0].tolist() == [255, 0]

    def test_a_constant_image_of_another_type_is_black(self) -> None:
        assert not to_rgb_uint8(np.full((3, 3), 7.5)).any()

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.zeros((0, 4), np.uint8), "empty"),
            (np.zeros((4, 0, 3), np.uint16), "empty"),
            (np.array([[0.0, np.nan]]), "NaN"),
            (np.array([[0.0, np.inf]]), "NaN"),
            (np.zeros(7, np.uint8), r"shape \(7,\)"),
            (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
            (np.zeros((1, 2, 3, 4), np.uint8), "shape"),
            (np.zeros((2, 2), np.complex64), "complex64"),
            (np.array([["a", "b"]]), "U1"),
        ],
    )
    def test_what_is_no_image_is_refused(self, array: np.ndarray, words: str) -> None:
        with pytest.raises(InputError, match=words):
            to_rgb_uint8(array)


class TestResize:
    def test_the_same_size_is_untouched(self) -> None:
        image = torch.rand(3, 8, 9)
        assert resize_image(image, (8, 9)) is image

    def test_a_batch_is_resized_image_by_image(self) -> None:
        images = torch.rand(2, 3, 20, 11)
        batch = resize_image(images, (8, 16))
        torch.testing.assert_close(batch[1], resize_image(images[1], (8, 16)))
        assert batch.shape == (2, 3, 8, 16)

    def test_shrinking_averages(self) -> None:
        checkers = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float()[None] * 255
        inner = resize_image(checkers, (16, 16))[:, 2:-2, 2:-2]
        torch.testing.assert_close(inner, torch.full_like(inner, 127.5), atol=2.0, rtol=0)

    def test_a_ramp_stays_a_ramp_on_each_axis(self) -> None:
        rows = torch.arange(60.0)[:, None].expand(60, 30)
        resized = resize_image(rows[None].contiguous(), (20, 90))[0]
        assert (resized - resized[:, :1]).abs().max() < 1e-4
        torch.testing.assert_close(
            resized[2:-2, 0], (torch.arange(20.0)[2:-2] + 0.5) * 3 - 0.5, atol=1e-3, rtol=0
        )


def test_normalise_matches_the_formula() -> None:
    image = torch.rand(3, 4, 5) * 255
    expected = torch.stack([(image[c] - PIXEL_MEAN[c]) / PIXEL_STD[c] for c in range(3)])
    torch.testing.assert_close(normalise(image), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(normalise(image[None])[0], expected, atol=1e-6, rtol=0)


def test_prepare_squashes_and_normalises() -> None:
    array = np.random.default_rng(1).integers(0, 256, (37, 91), np.uint8)
    tensor = prepare(array, 32)
    assert tensor.shape == (3, 32, 32)
    assert tensor.dtype == torch.float32
    restored = tensor * torch.tensor(PIXEL_STD).view(3, 1, 1) + torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    torch.testing.assert_close(restored[0], restored[2], atol=1e-4, rtol=0)
    assert abs(restored[0].mean().item() - array.mean()) < 1.0


class TestScaling:
    def test_each_axis_has_its_own_ratio_and_x_comes_first(self) -> None:
        assert scale_points([[30, 10]], (100, 300), (50, 600)).tolist() == [[60, 5]]
        assert scale_boxes([30, 10, 300, 100], (100, 300), (50, 600)).tolist() == [60, 5, 600, 50]

    @given(SIZES, SIZES, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5))
    @settings(deadline=None)
    def test_there_and_back(self, here: tuple[int, int], there: tuple[int, int], corners: list) -> None:
        height, width = here
        boxes = np.array(corners, dtype=float).reshape(-1, 4) * [width, height, width, height]
        back = scale_boxes(scale_boxes(boxes, here, there), there, here)
        np.testing.assert_allclose(back, boxes, rtol=1e-12, atol=1e-9)
        points = boxes.reshape(-1, 2, 2)
        moved = scale_points(points, here, there)
        assert (moved >= 0).all()
        assert (moved <= np.array([there[1], there[0]]) * (1 + 1e-12)).all()
        np.testing.assert_allclose(scale_points(moved, there, here), points, rtol=1e-12, atol=1e-9)

    def test_no_box_stays_no_box(self) -> None:
        assert np.isnan(scale_boxes(np.full((2, 3, 4), np.nan), (10, 10), (20, 20))).all()
        assert scale_boxes(np.zeros((0, 4)), (10, 10), (20, 20)).shape == (0, 4)
