"""From logits to label maps, their files, the overlay and the table."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor, decollate_batch
from PIL import Image
from skimage.segmentation import find_boundaries

from boxnet import BoxNetwork
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.scale import Scale
from lmsfe_sam.inference.dataset import SkippingDataset
from lmsfe_sam.inference.inferers import FullImageInferer
from lmsfe_sam.inference.transforms import (
    AttachPromptsd,
    LoadFileImaged,
    MeasureObjectsd,
    MergeObjectsd,
    measure_objects,
)
from lmsfe_sam.inference.writers import overlay
from lmsfe_sam.inference.writers.label_maps import OUTPUT_SUFFIXES, to_file_axes, write_label_map
from lmsfe_sam.inference.writers.overlay import COLOURS, INSIDE, OUTSIDE, draw_overlay
from lmsfe_sam.predict.postprocessing import mask_parts, paint_objects
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts
from medical_files import save_dicom
from prompt_rows import prompt_rows

OBLIQUE = np.array([[0.2, 0.05, -0.1, 12.0], [-0.04, 0.3, 0.2, -7.0], [0.01, -0.06, 1.5, 33.0], [0, 0, 0, 1]])
"""Sheared a little, so that no writer may rebuild it from spacing and direction unnoticed."""

TURNED = np.array([[0, 0.2, 0, 5], [0, 0, -1, 6], [0.3, 0, 0, 7], [0, 0, 0, 1.0]])
LABELS = np.random.default_rng(0).integers(0, 4, (11, 17), np.uint8)


def image_of(path: Path, slice_index: int | None = None) -> MetaTensor:
    return LoadFileImaged("image", slice_index)({"image": path})["image"]


class TestPrompting:
    IMAGE = MetaTensor(torch.zeros(3, 128, 192), meta={"filename_or_obj": "a.png"})

    def test_prompts_travel_in_the_metadata(self) -> None:
        data = {"image": self.IMAGE.clone(), "prompts": [ObjectPrompt([30, 42, 180, 100], [[90, 64]])]}
        result = AttachPromptsd("image")(data)
        for prompts in (result["image"].meta["prompts"], result["prompts"]):
            assert prompt_rows(Prompts(**prompts)).tolist() == [[30, 42, 180, 100, 90, 64, 1]]

    def test_no_prompts(self) -> None:
        result = AttachPromptsd("image")({"image": self.IMAGE.clone()})
        assert result["image"].meta["prompts"]["boxes"].isnan().tolist() == [[True] * 4]

    def test_a_prompt_outside_is_named(self) -> None:
        data = {
            "image": self.IMAGE.clone(),
            "prompts": [ObjectPrompt([0, 0, 1, 1]), ObjectPrompt([192, 0, 193, 1])],
        }
        with pytest.raises(InputError, match=r"object 2 of 'a\.png' in the prompts: the box .* 192 x 128"):
            AttachPromptsd("image")(data)


class TestInferer:
    def test_prompts_in_the_metadata_are_followed(self) -> None:
        prompts = Prompts.of([ObjectPrompt([8, 8, 24, 40]), ObjectPrompt(points=[[50, 50]])])
        collated = prompts.map(lambda tensor: tensor[None])
        for carried in (prompts, collated):
            image = MetaTensor(torch.zeros(1, 3, 64, 64), meta={"prompts": carried.given()})
            answer = FullImageInferer()(image, BoxNetwork())
            assert answer["labels"].shape == (1, 1, 64, 64)
            assert answer["predicted_iou"].shape == (1, 2)
            assert (answer["labels"] == 1).sum() == 16 * 32

    def test_without_any(self) -> None:
        for image in (torch.zeros(1, 3, 64, 64), MetaTensor(torch.zeros(1, 3, 64, 64))):
            answer = FullImageInferer()(image, BoxNetwork())
            assert answer["labels"].shape == (1, 1, 64, 64)
            assert answer["predicted_iou"].shape == (1, 1)

    def test_the_way_without_an_engine(self, tmp_path: Path) -> None:
        """As a server does it: one item, an axis added and taken off again, no collation."""
        Image.fromarray(np.zeros((128, 192), np.uint8)).save(tmp_path / "a.png")
        data = {"image": tmp_path / "a.png", "prompts": [ObjectPrompt([30, 42, 180, 100])]}
        data = AttachPromptsd("image")(LoadFileImaged("image")(data))
        answer = FullImageInferer()(data["image"][None], BoxNetwork())
        data["pred"] = decollate_batch(answer)[0]
        result = MeasureObjectsd("pred")(MergeObjectsd("pred")(data))
        assert result["pred"].shape == (1, 128, 192)
        assert [result["objects"][0][side] for side in ("x0", "y0", "x1", "y1")] == [30, 42, 180, 100]

    def test_one_image_at_a_time(self) -> None:
        with pytest.raises(ValueError, match="batch_size"):
            FullImageInferer()(torch.zeros(2, 3, 64, 64), BoxNetwork())


def merge_objects(logits: torch.Tensor, iou: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return paint_objects([mask_parts(one, (0, 0), size) for one in logits], iou.tolist(), size)


class TestMerging:
    def test_the_higher_predicted_iou_wins(self) -> None:
        logits = torch.full((3, 8, 8), -1.0)
        logits[0, :, :5] = 1
        logits[1, :, 3:] = 1
        logits[2, 2:6] = 1
        labels = merge_objects(logits, torch.tensor([0.5, 0.9, 0.7]), (8, 8))
        assert labels[0].tolist() == [1, 1, 1, 2, 2, 2, 2, 2]
        assert labels[3].tolist() == [3, 3, 3, 2, 2, 2, 2, 2]

    def test_of_equals_the_first_wins(self) -> None:
        labels = merge_objects(torch.ones(3, 4, 4), torch.tensor([0.2, 0.5, 0.5]), (4, 4))
        assert (labels == 2).all()

    def test_many_objects_need_a_larger_type(self) -> None:
        logits = torch.full((300, 16, 20), -1.0)
        logits[torch.arange(300), torch.arange(300) // 20, torch.arange(300) % 20] = 1.0
        labels = merge_objects(logits, torch.zeros(300), (16, 20))
        assert labels.dtype == np.uint16
        np.testing.assert_array_equal(labels.ravel()[:300], np.arange(1, 301))

    def test_measures(self) -> None:
        labels = np.zeros((10, 12), np.uint8)
        labels[2:5, 3:9] = 1
        labels[7, 11] = 3
        first, second, third = measure_objects(labels, [0.9, 0.8, 0.7], Scale((0.5, 0.25), "header"))
        assert first == {
            "object": 1, "area_px": 18, "area_mm2": 2.25,
            "x0": 3, "y0": 2, "x1": 9, "y1": 5, "predicted_iou": 0.9,
            "spacing_source": "header",
        }  # fmt: skip
        assert (second["area_px"], second["x0"], second["y1"]) == (0, None, None)
        assert (third["x0"], third["y0"], third["x1"], third["y1"]) == (11, 7, 12, 8)
        assert measure_objects(labels, [0.9] * 3, Scale())[0]["area_mm2"] is None


class TestWriting:
    def test_a_slice_goes_back_into_its_volume(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(np.zeros((17, 11, 5), np.uint8), np.eye(4)), tmp_path / "a.nii")
        volume = to_file_axes(LABELS, image_of(tmp_path / "a.nii", 3).meta)
        assert volume.shape == (17, 11, 5)
        np.testing.assert_array_equal(volume[:, :, 3].T, LABELS)
        assert not volume[:, :, [0, 1, 2, 4]].any()

    @pytest.mark.parametrize("affine", [np.eye(4), np.diag([0.3, -0.2, 2, 1]), TURNED, OBLIQUE], ids=range(4))
    @pytest.mark.parametrize("shape", [(17, 11), (17, 11, 1), (17, 11, 5), (17, 11, 1, 3)], ids=str)
    def test_nifti_in_its_own_geometry(
        self, tmp_path: Path, affine: np.ndarray, shape: tuple[int, ...]
    ) -> None:
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), tmp_path / "a.nii.gz")
        meta = image_of(tmp_path / "a.nii.gz", 2 if np.prod(shape) > 17 * 11 else None).meta
        write_label_map(tmp_path / "masks" / "a.nii.gz", LABELS, meta)
        mask = nib.load(tmp_path / "masks" / "a.nii.gz")
        assert mask.shape == shape
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
        cut = np.asarray(mask.dataobj).reshape(17, 11, -1)
        np.testing.assert_array_equal(cut[:, :, 2 if cut.shape[2] > 1 else 0].T, LABELS)

    @pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
    @pytest.mark.parametrize("axes", [2, 3])
    def test_nrrd_and_metaimage_in_their_own_geometry(self, tmp_path: Path, suffix: str, axes: int) -> None:
        image = sitk.GetImageFromArray(np.zeros((3, 11, 17)[-axes:], np.int16))
        image.SetSpacing((0.3, 0.2, 2.0)[:axes])
        image.SetOrigin((5.0, -6.0, 7.0)[:axes])
        turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])[:axes, :axes]
        image.SetDirection(turn.ravel().tolist())
        sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
        meta = image_of(tmp_path / f"a{suffix}", 1 if axes == 3 else None).meta
        write_label_map(tmp_path / f"m{suffix}", LABELS, meta)
        mask = sitk.ReadImage(str(tmp_path / f"m{suffix}"))
        assert mask.GetSize() == image.GetSize()
        np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing(), atol=1e-9)
        np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-9)
        np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-9)
        pixels = sitk.GetArrayFromImage(mask)
        np.testing.assert_array_equal(pixels if axes == 2 else pixels[1], LABELS)

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
    def test_dicom_as_simpleitk_sees_it(self, tmp_path: Path, suffix: str) -> None:
        save_dicom(
            tmp_path / "a.dcm",
            np.zeros((11, 17), np.uint8),
            PixelSpacing=[0.2, 0.3],
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ImagePositionPatient=[10, 20, 30],
        )
        write_label_map(tmp_path / f"m{suffix}", LABELS, image_of(tmp_path / "a.dcm").meta)
        image, mask = (sitk.ReadImage(str(tmp_path / name)) for name in ("a.dcm", f"m{suffix}"))
        assert mask.GetSize() == image.GetSize()
        for corner in ((0, 0, 0), (16, 0, 0), (0, 10, 0)):
            np.testing.assert_allclose(
                mask.TransformIndexToPhysicalPoint(corner),
                image.TransformIndexToPhysicalPoint(corner),
                atol=1e-4,
            )
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask)[0], LABELS)

    @pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
    def test_a_picture_as_simpleitk_sees_it(self, tmp_path: Path, suffix: str) -> None:
        Image.fromarray(np.zeros((11, 17), np.uint8)).save(tmp_path / "a.png")
        write_label_map(tmp_path / f"m{suffix}", LABELS, image_of(tmp_path / "a.png").meta)
        image, mask = (sitk.ReadImage(str(tmp_path / name)) for name in ("a.png", f"m{suffix}"))
        assert mask.GetSize()[:2] == image.GetSize()
        dimension = mask.GetDimension()  # SimpleITK reads every NIfTI file as a volume
        turn = np.reshape(mask.GetDirection(), (dimension, dimension))
        np.testing.assert_allclose(turn[:2, :2].ravel(), image.GetDirection())
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask).reshape(11, 17), LABELS)

    def test_an_oblique_plane_needs_three_axes_in_nrrd(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(np.zeros((17, 11), np.int16), TURNED), tmp_path / "a.nii")
        write_label_map(tmp_path / "m.nrrd", LABELS, image_of(tmp_path / "a.nii").meta)
        mask = sitk.ReadImage(str(tmp_path / "m.nrrd"))
        expected = np.diag([-1, -1, 1, 1]) @ TURNED @ [16, 10, 0, 1]
        np.testing.assert_allclose(mask.TransformIndexToPhysicalPoint((16, 10, 0)), expected[:3], atol=1e-5)

    def test_large_labels_in_png(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((11, 17), np.uint8)).save(tmp_path / "a.png")
        write_label_map(tmp_path / "m.png", LABELS.astype(np.uint16) * 300, image_of(tmp_path / "a.png").meta)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "m.png")), LABELS.astype(int) * 300)

    def test_nothing_else_is_left_behind(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((11, 17), np.uint8)).save(tmp_path / "a.png")
        (tmp_path / "out").write_text("in the way")
        with pytest.raises(InputError, match="could not be written"):
            write_label_map(tmp_path / "out" / "m.png", LABELS, image_of(tmp_path / "a.png").meta)
        write_label_map(tmp_path / "m.nrrd", LABELS, image_of(tmp_path / "a.png").meta)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "m.nrrd", "out"]


class TestOverlay:
    def test_objects_and_prompts_are_seen(self) -> None:
        picture = np.full((60, 90, 3), 100, np.uint8)
        labels = np.zeros((60, 90), np.uint8)
        labels[10:30, 10:30] = 1
        prompts = Prompts.of([ObjectPrompt([50, 20, 80, 50], [[60, 40], [70, 30]], [1, 0]), ObjectPrompt()])
        drawn = np.asarray(draw_overlay(picture, labels, prompts))
        assert drawn.shape == picture.shape
        assert (drawn[20, 20] != 100).any()
        assert (drawn[5, 5] == 100).all()
        assert (drawn[20, 55] != 100).any() and (drawn[49, 79] != 100).any()
        assert (drawn[50, 80] == 100).all()
        assert tuple(drawn[40, 60]) == INSIDE
        assert tuple(drawn[30, 70]) == OUTSIDE
        assert (picture == 100).all()

    def test_strip_by_strip_is_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 256, (40, 30, 3), np.uint8)
        labels = np.kron(rng.integers(0, 12, (8, 6)), np.ones((5, 5), int)).astype(np.uint8)
        expected = np.asarray(draw_overlay(picture, labels, Prompts.of([])))
        outline = find_boundaries(labels, mode="inner")
        np.testing.assert_array_equal(expected[outline], COLOURS[(labels[outline] - 1) % len(COLOURS)])
        for rows in (1, 3, 5, 39):
            monkeypatch.setattr(overlay, "PIXELS_AT_ONCE", rows * 30)
            drawn = np.asarray(draw_overlay(picture, labels, Prompts.of([])))
            np.testing.assert_array_equal(drawn, expected)


class TestSkippingDataset:
    @staticmethod
    def transform(record: dict) -> dict:
        if record["k"] == "bug":
            raise KeyError("a bug")
        if record["k"] < 0:
            try:
                raise InputError(f"{record['k']} is negative.")
            except InputError as error:
                raise RuntimeError("as MONAI wraps it") from error
        return record

    def test_bad_records_are_skipped_and_reported(self) -> None:
        dataset = SkippingDataset([{"k": k} for k in (1, -2, 3, -4)], self.transform)
        assert [item["k"] for item in dataset] == [1, 3]
        with pytest.raises(InputError) as caught:
            dataset.finish()
        assert str(caught.value).splitlines() == [
            "2 of 4 inputs were left out:", "-2 is negative.", "-4 is negative."
        ]  # fmt: skip

    def test_a_lone_record_gives_its_own_sentence(self) -> None:
        dataset = SkippingDataset([{"k": -7}], self.transform)
        assert list(dataset) == []
        with pytest.raises(InputError, match=r"^-7 is negative\.$"):
            dataset.finish()

    def test_good_records_and_bugs(self) -> None:
        dataset = SkippingDataset([{"k": 1}], self.transform)
        assert len(list(dataset)) == len(list(dataset)) == 1
        dataset.finish()
        with pytest.raises(KeyError, match="a bug"):
            list(SkippingDataset([{"k": "bug"}], self.transform))
