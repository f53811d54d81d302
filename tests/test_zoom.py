"""The closer look at a lesion, as an augmentation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsfe_sam.data.transforms.zoom import RandLesionZoomd
from lmsfe_sam.errors import InputError

HEIGHT, WIDTH = 60, 90


def picture(y0: int, x0: int, y1: int, x1: int) -> dict[str, torch.Tensor]:
    """Return an image whose first channel holds the rows' numbers and the second the columns', and a mask."""
    rows = torch.arange(HEIGHT).float()[:, None].expand(HEIGHT, WIDTH)
    columns = torch.arange(WIDTH).float()[None].expand(HEIGHT, WIDTH)
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.uint8)
    mask[:, y0:y1, x0:x1] = 1
    return {"image": torch.stack([rows, columns, rows * 0]), "label": mask}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, HEIGHT - 2),
    st.integers(0, WIDTH - 2),
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(0),
)
def test_the_window_holds_the_whole_lesion_and_is_the_same_for_both(y, x, height, width, seed):
    data = picture(y, x, y + height, x + width)
    result = RandLesionZoomd(["image", "label"], prob=1.0).set_random_state(seed % 2**32)(data)
    assert result["label"].sum() == data["label"].sum()
    assert result["image"].shape[1:] == result["label"].shape[1:]
    inside = result["image"][:2, result["label"][0] > 0]
    assert torch.equal(inside, data["image"][:2, data["label"][0] > 0])


def test_the_lesion_takes_up_the_given_share_of_the_window():
    data = picture(25, 40, 35, 55)
    for seed in range(20):
        zoom = RandLesionZoomd(["image", "label"], prob=1.0, share=(0.5, 0.5)).set_random_state(seed)
        height, width = zoom(data)["label"].shape[1:]
        assert 10 / 0.5 / 1.3 <= height <= 10 / 0.5 * 1.3
        assert 15 / 0.5 / 1.3 <= width <= 15 / 0.5 * 1.3


def test_never_and_no_lesion_leave_the_picture_alone():
    data = picture(25, 40, 35, 55)
    assert RandLesionZoomd(["image", "label"], prob=0.0)(data)["image"] is data["image"]
    empty = picture(0, 0, 0, 0)
    assert RandLesionZoomd(["image", "label"], prob=1.0)(empty)["image"] is empty["image"]


def test_a_share_out_of_order_is_refused():
    with pytest.raises(InputError, match="share"):
        RandLesionZoomd(["image", "label"], share=(0.7, 0.3))
