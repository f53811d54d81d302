"""Segmentations of 3D Slicer as masks, with segments that overlap, and NIfTI pairs as images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest

from data_folders import SIZE, disc, save, speckle
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.masks.files import read_label_map
from lmsfe_sam.data.masks.objects import record_objects
from lmsfe_sam.data.masks.reading import SizeMismatchError, record_mask
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import list_images
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.inference.inputs import find_inputs

LEFT, RIGHT, INNER = disc(centre=(30, 20)), disc(centre=(30, 36)), disc(radius=5, centre=(30, 36))


def save_segments(path: Path, layers: list[np.ndarray], places: list[tuple[int, int]], **fields: Any) -> Path:
    """Write layers (H, W) of label values as Slicer does, with a layer and a value for each segment."""
    header: dict[str, Any] = {"space": "left-posterior-superior", "encoding": "gzip"}
    if len(layers) > 1:
        volume = np.stack(layers).transpose(0, 2, 1)[..., None]
        header["kinds"] = ["list", "domain", "domain", "domain"]
        header["space directions"] = np.array([[np.nan] * 3, [0.2, 0, 0], [0, 0.1, 0], [0, 0, 1]])
    else:
        volume = layers[0].T[..., None]
        header["kinds"] = ["domain", "domain", "domain"]
        header["space directions"] = np.diag([0.2, 0.1, 1])
    for number, (layer, value) in enumerate(places):
        header[f"Segment{number}_ID"] = f"Segment_{number + 1}"
        header[f"Segment{number}_Name"] = "Tumor"
        header[f"Segment{number}_Layer"] = str(layer)
        header[f"Segment{number}_LabelValue"] = str(value)
    nrrd.write(str(path), volume.astype(np.uint8), {**header, **fields})
    return path


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """Two overlapping segments, one on each of two layers, and a third one within the second."""
    save(tmp_path / "a.png", speckle(0))
    layers = [LEFT.astype(int) + 5 * INNER, RIGHT.astype(int)]
    path = save_segments(tmp_path / "a.seg.nrrd", layers, [(0, 1), (1, 1), (0, 5)])
    return {"image": str(tmp_path / "a.png"), "label": str(path)}


def test_overlapping_segments_are_objects_of_their_own(record: dict[str, Any]) -> None:
    left = LEFT & ~INNER  # a layer has one value a pixel
    objects = record_objects({**record, "objects": "labels"}, SIZE)
    assert [one.label for one in objects] == [1, 2, 3]
    for one, expected in zip(objects, (left, RIGHT, INNER), strict=True):
        np.testing.assert_array_equal(one.mask, expected)
    np.testing.assert_array_equal(record_mask(record, SIZE), LEFT | RIGHT | INNER)
    assert len(record_objects({**record, "objects": "parts"}, SIZE)) == 3


def test_segments_of_one_layer_keep_their_values(tmp_path: Path) -> None:
    path = save_segments(tmp_path / "a.seg.nrrd", [LEFT * 3 + RIGHT * ~LEFT * 7], [(0, 3), (0, 7)])
    assert np.unique(read_label_map(path).labels).tolist() == [0, 3, 7]


def test_a_part_of_the_image_is_put_to_its_place(tmp_path: Path, record: dict[str, Any]) -> None:
    part = (slice(10, 50), slice(5, 60))
    fields = {"Segmentation_ReferenceImageExtentOffset": "5 10 0"}
    cut = save_segments(tmp_path / "part.seg.nrrd", [LEFT[part], RIGHT[part]], [(0, 1), (1, 1)], **fields)
    np.testing.assert_array_equal(record_mask({**record, "label": str(cut)}, SIZE), LEFT | RIGHT)
    nowhere = save_segments(tmp_path / "none.seg.nrrd", [LEFT[part], RIGHT[part]], [(0, 1), (1, 1)])
    with pytest.raises(SizeMismatchError):
        record_mask({**record, "label": str(nowhere)}, SIZE)


def test_a_segment_on_no_layer_and_several_slices_are_refused(tmp_path: Path) -> None:
    path = save_segments(tmp_path / "a.seg.nrrd", [LEFT, RIGHT], [(0, 1), (2, 1)])
    with pytest.raises(InputError, match="a segment on a layer that it does not have"):
        read_label_map(path)
    header = {"kinds": ["domain"] * 3, "space": "left-posterior-superior", "Segment0_ID": "Segment_1"}
    volume = np.zeros((20, 20, 3), np.uint8)
    nrrd.write(str(tmp_path / "b.seg.nrrd"), volume, {**header, "space directions": np.eye(3)})
    with pytest.raises(InputError, match="segments on several slices"):
        read_label_map(tmp_path / "b.seg.nrrd")


def save_pair(path: Path, pixels: np.ndarray) -> Path:
    nib.save(nib.Nifti1Pair(pixels.T[..., None], np.diag([-0.2, -0.1, 1, 1])), path)
    return path


def test_a_nifti_pair_is_an_image_and_a_mask(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(3):
        save_pair(tmp_path / "images" / f"{number}.hdr", speckle(number))
        save_pair(tmp_path / "masks" / f"{number}.hdr", disc().astype(np.uint8))
    records = [record for part in build_datalist(tmp_path).records.values() for record in part]
    assert sorted(record["name"] for record in records) == [f"images/{number}.hdr" for number in range(3)]
    for record in records:
        image = read_image(record["image"])
        np.testing.assert_array_equal(image.pixels, speckle(int(Path(record["image"]).stem)))
        assert image.scale.spacing == pytest.approx((0.1, 0.2))
        np.testing.assert_array_equal(record_mask(record, SIZE), disc())
    assert [item["stem"] for item in find_inputs(tmp_path / "images")] == ["0", "1", "2"]


def test_a_header_without_its_voxels_or_of_another_format_is_named(tmp_path: Path) -> None:
    save_pair(tmp_path / "a.hdr", speckle(0))
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match=r"a\.hdr' has its voxels in 'a\.img', which is no file"):
        read_image(tmp_path / "a.hdr")
    (tmp_path / "a.img").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="which is no file"):
        read_image(tmp_path / "a.hdr")
    (tmp_path / "envi.hdr").write_text("ENVI\nsamples = 8\nlines = 8\n" + " " * 400)
    with pytest.raises(InputError, match="is no header of a NIfTI pair"):
        read_image(tmp_path / "envi.hdr")
    assert [path.name for path in list_images(tmp_path)] == ["a.hdr"]
