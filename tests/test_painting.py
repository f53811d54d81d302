"""Calipers painted out: gone for the detector, the rest of the picture untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lmsfe_sam.data.transforms.markings import find_markings
from lmsfe_sam.data.transforms.painting import PaintOutMarkingsd, note_markings, paint_out

CENTRES = ((60, 38), (60, 122))


@pytest.fixture
def clean() -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(0).normal(0, 25, (120, 160)), 1)
    return np.repeat(np.clip(70 + noise, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.fixture
def mask() -> np.ndarray:
    y, x = np.mgrid[:120, :160]
    return ((y - 60) / 25) ** 2 + ((x - 80) / 40) ** 2 < 1


def with_calipers(clean: np.ndarray) -> np.ndarray:
    image = clean.copy()
    for y, x in CENTRES:
        image[y - 4 : y + 5, x] = 250
        image[y, x - 4 : x + 5] = 250
    return image


def test_what_is_painted_is_found_no_more_and_looks_like_before(clean, mask):
    marked = with_calipers(clean)
    found = find_markings(marked, mask)
    assert len(found) == 2
    painted = paint_out(marked, found, np.random.default_rng(0))
    assert find_markings(painted, mask) == []
    away = np.ones(mask.shape, dtype=bool)
    for y, x in CENTRES:
        away[y - 8 : y + 9, x - 8 : x + 9] = False
    assert np.array_equal(painted[away], marked[away])
    assert (
        np.abs(painted.astype(float) - clean)[~away].mean()
        < np.abs(marked.astype(float) - clean)[~away].mean() / 2
    )
    patch = painted[CENTRES[0][0] - 4 : CENTRES[0][0] + 5, CENTRES[0][1]].astype(float)
    assert patch.std() > 2  # no smooth patch


def test_the_transform_paints_the_same_each_time_and_leaves_clean_pictures_alone(clean, mask):
    def run(image: np.ndarray) -> torch.Tensor:
        data = {
            "image": torch.from_numpy(image.transpose(2, 0, 1)).float(),
            "label": mask[None],
            "name": "a.png",
        }
        return PaintOutMarkingsd()(data)["image"]

    marked = with_calipers(clean)
    assert torch.equal(run(marked), run(marked))
    assert run(marked).max() < 200
    assert torch.equal(run(clean), torch.from_numpy(clean.transpose(2, 0, 1)).float())


def test_without_a_lesion_nothing_is_painted_out(clean, mask):
    marked = torch.from_numpy(with_calipers(clean).transpose(2, 0, 1)).float()
    data = {"image": marked, "label": np.zeros_like(mask)[None], "name": "a.png"}
    assert torch.equal(PaintOutMarkingsd()(data)["image"], marked)


def test_records_are_noted_only_if_wanted(clean, mask, tmp_path):
    from PIL import Image

    for name, image in (("marked", with_calipers(clean)), ("clean", clean)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    records = [
        {
            "image": str(tmp_path / f"{name}.png"),
            "label": [str(tmp_path / "mask.png")],
            "subgroup": {"class": "x"},
        }
        for name in ("marked", "clean")
    ]
    assert note_markings(records, None) == records
    noted = note_markings(records, "note")
    assert [r["subgroup"]["markings"] for r in noted] == ["near the lesion", "none found"]
    assert all(r["subgroup"]["class"] == "x" for r in noted)
