"""``configs/inference.json`` as a whole, in this process: places, geometry, tables and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from boxnet import BoxNetwork
from inference_workflow import (
    AFFINE,
    BOX,
    HEIGHT,
    INSIDE,
    NOISE,
    WIDTH,
    Run,
    assert_sentence,
    finish,
    inference_workflow,
    table,
    write_prompts,
)
from lmsfe_sam import LMSFESAM, Predictor
from lmsfe_sam.errors import find_input_error
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD
from lmsfe_sam.predict.preprocessing import load_windows, prepare
from lmsfe_sam.predict.zoom import AUTO
from lmsfe_sam.prompts.coordinates import full_window
from lmsfe_sam.prompts.prompts_file import read_prompts
from medical_files import save_dicom, ultrasound_region


@pytest.fixture
def workflow(bundle_root: Path, tmp_path: Path) -> Run:
    return inference_workflow(bundle_root, tmp_path)


@pytest.fixture
def segment(workflow: Run) -> Run:
    """Run the config with the stand-in network."""

    def run(**keys: Any) -> ConfigWorkflow:
        stand_in = {"network": "$__import__('boxnet').BoxNetwork()", "image_size": BoxNetwork.image_size}
        return finish(workflow(**{**stand_in, **keys}))

    return run


def assert_in_place(labels: np.ndarray, label: int = 1) -> None:
    assert labels.shape == INSIDE.shape
    assert ((labels == label) != INSIDE).sum() <= 4  # a corner may be rounded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


class TestPlaces:
    def test_every_format_in_its_place_and_geometry(self, folder: Path, tmp_path: Path, segment: Run) -> None:
        Image.fromarray(NOISE).save(folder / "grey.png")
        Image.fromarray(NOISE.astype(np.uint16) * 256).save(folder / "deep.png")
        Image.fromarray(np.dstack([NOISE] * 4)).save(folder / "rgba.png")
        Image.fromarray(NOISE).save(folder / "photo.jpg")
        nib.save(nib.Nifti1Image(NOISE.T[..., None], AFFINE), folder / "oblique.nii.gz")
        nib.save(nib.Nifti1Image(NOISE.T, np.diag([-0.3, 0.2, 1, 1])), folder / "flipped.nii")
        image = sitk.GetImageFromArray(NOISE)
        image.SetSpacing((0.3, 0.2))
        sitk.WriteImage(image, str(folder / "plane.nrrd"))
        save_dicom(folder / "scan.dcm", NOISE, SequenceOfUltrasoundRegions=[ultrasound_region(0.03, 0.02)])
        save_dicom(folder / "IM_7", np.dstack([NOISE] * 3))
        names = sorted(path.name for path in folder.iterdir())
        prompts = write_prompts(folder, **{name: [{"box": BOX}] for name in names})
        segment(input=str(folder), prompts=prompts)
        out = tmp_path / "out"
        rows = {row["image"]: row for row in table(out)}
        assert list(rows) == names
        areas = {"oblique.nii.gz": np.prod(np.linalg.norm(AFFINE[:3, :2], axis=0))}
        areas |= dict.fromkeys(["flipped.nii", "plane.nrrd", "scan.dcm"], 0.06)
        for name in names:
            stem = name.split(".")[0]
            assert_in_place(np.asarray(Image.open(out / "masks" / f"{stem}.png")))
            overlay = Image.open(out / "overlays" / f"{stem}.png")
            assert (overlay.size, overlay.mode) == ((WIDTH, HEIGHT), "RGB")
            row = rows[name]
            assert [int(row[side]) for side in ("x0", "y0", "x1", "y1")] == list(BOX)
            assert abs(int(row["area_px"]) - INSIDE.sum()) <= 4
            if name in areas:
                assert float(row["area_mm2"]) == pytest.approx(int(row["area_px"]) * areas[name], rel=1e-4)
            else:
                assert row["area_mm2"] == ""

    def test_volumes_keep_their_geometry(self, folder: Path, tmp_path: Path, segment: Run) -> None:
        volume = np.random.default_rng(1).integers(0, 256, (WIDTH, HEIGHT, 4), np.uint8)
        nib.save(nib.Nifti1Image(volume, AFFINE), folder / "v.nii.gz")
        nib.save(nib.Nifti1Image(volume[:, :, :1], AFFINE), folder / "one.nii.gz")
        film = np.random.default_rng(2).integers(0, 256, (4, HEIGHT, WIDTH), np.uint8)
        save_dicom(folder / "film.dcm", film, frames=4)
        names = ("v.nii.gz", "one.nii.gz", "film.dcm")
        prompts = write_prompts(folder, **{name: [{"box": BOX}] for name in names})
        segment(input=str(folder), prompts=prompts, slice=2, output_ext=".nii.gz")
        stems = {"v": "v", "one": "one", "film": "film"}
        masks = {
            name: nib.load(tmp_path / "out" / "masks" / f"{stem}.nii.gz") for name, stem in stems.items()
        }
        assert masks["v"].shape == (WIDTH, HEIGHT, 4)
        assert masks["one"].shape == (WIDTH, HEIGHT, 1)
        assert masks["film"].shape == (WIDTH, HEIGHT, 4)
        np.testing.assert_allclose(masks["v"].affine, AFFINE, atol=1e-5)
        np.testing.assert_allclose(masks["one"].affine, AFFINE, atol=1e-5)
        pixels = np.asarray(masks["v"].dataobj)
        assert_in_place(pixels[:, :, 2].T)
        assert not pixels[:, :, [0, 1, 3]].any()
        assert_in_place(np.asarray(masks["one"].dataobj)[:, :, 0].T)
        assert_in_place(np.asarray(masks["film"].dataobj)[:, :, 2].T)

    def test_nrrd_out_of_nifti_lies_at_the_same_place(
        self, folder: Path, tmp_path: Path, segment: Run
    ) -> None:
        affine = np.diag([-0.3, 0.2, 1.5, 1])
        affine[:3, 3] = 4, 5, 6
        nib.save(nib.Nifti1Image(NOISE.T[..., None], affine), folder / "a.nii")
        segment(input=str(folder / "a.nii"), output_ext=".nrrd")
        image, mask = (
            sitk.ReadImage(str(p)) for p in (folder / "a.nii", tmp_path / "out" / "masks" / "a.nrrd")
        )
        assert mask.GetSize() == image.GetSize()
        np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-5)
        np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing(), atol=1e-5)
        np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-5)

    def test_the_better_object_wins_and_the_rest_is_unprompted(
        self, folder: Path, tmp_path: Path, segment: Run
    ) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        Image.fromarray(NOISE).save(folder / "a.jpg")
        small, large = [60, 60, 90, 80], [30, 42, 180, 100]  # the smaller box has the higher predicted IoU
        click = {"points": [[150, 20]], "labels": [1]}
        prompts = write_prompts(folder, **{"a.png": [{"box": small}, {"box": large}, click]})
        segment(input=str(folder), prompts=prompts)
        labels = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png.png"))
        assert (labels[61:79, 61:89] == 1).all()
        assert labels[50, 40] == 2
        assert labels[20, 150] == 3
        assert np.asarray(Image.open(tmp_path / "out" / "masks" / "a.jpg.png")).max() == 1
        assert [(r["image"], r["object"]) for r in table(tmp_path / "out")] == [
            ("a.jpg", "1"), ("a.png", "1"), ("a.png", "2"), ("a.png", "3")
        ]  # fmt: skip


class TestModes:
    """Each way to look at an image gives the same files, with every object in its place."""

    @pytest.mark.parametrize(
        "keys",
        [
            {"mode": "auto"},
            {"mode": "resize"},
            {"mode": "zoom", "zoom_share": 0.5},
            {"mode": "window"},
            {"mode": "window", "window_size": 100, "window_overlap": 0.25, "window_batch": 1},
        ],
        ids=lambda keys: "-".join(map(str, keys.values())),
    )
    def test_objects_are_in_their_places(
        self, folder: Path, tmp_path: Path, segment: Run, keys: dict[str, Any]
    ) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        nib.save(nib.Nifti1Image(NOISE.T[..., None], AFFINE), folder / "b.nii")
        small = [1, 1, 30, 30]
        prompts = write_prompts(folder, **{"a.png": [{"box": BOX}, {"box": small}]})
        segment(input=str(folder), prompts=prompts, **keys)
        out = tmp_path / "out"
        labels = np.asarray(Image.open(out / "masks" / "a.png"))
        assert ((labels == 1) != INSIDE).sum() <= 0.02 * INSIDE.sum()
        assert abs((labels == 2).sum() - 29 * 29) <= 60
        assert (labels[3:28, 3:28] == 2).all()
        assert np.asarray(Image.open(out / "masks" / "b.png")).shape == (HEIGHT, WIDTH)
        rows = table(out)
        assert [(row["image"], row["object"]) for row in rows] == [
            ("a.png", "1"), ("a.png", "2"), ("b.nii", "1")
        ]  # fmt: skip
        assert all(0 < float(row["predicted_iou"]) <= 1 for row in rows)
        assert Image.open(out / "overlays" / "a.png").size == (WIDTH, HEIGHT)

    def test_by_default_a_small_object_is_segmented_in_a_window_and_others_are_not(
        self, folder: Path, tmp_path: Path, segment: Run
    ) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        tiny = [5, 110, 20, 121]
        prompts = write_prompts(folder, **{"a.png": [{"box": tiny}, {"box": BOX}]})
        made = segment(input=str(folder), prompts=prompts)
        whole, close = (prepare(NOISE[part], 64) for part in (np.s_[:], np.s_[64:128, 0:64]))
        torch.testing.assert_close(
            made.evaluator.network.seen, torch.stack([close, whole]), rtol=0, atol=1e-5
        )
        labels = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png"))
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[110:121, 5:20] = True
        assert_in_place(labels, 2)
        np.testing.assert_array_equal(labels == 1, expected)

    def test_nothing_is_resized_before_windows_are_cropped(self, folder: Path, workflow: Run) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        stand_in = {"network": "$__import__('boxnet').BoxNetwork()", "image_size": BoxNetwork.image_size}
        (item,) = workflow(input=str(folder), mode="window", **stand_in).dataset
        assert item["image"].dtype == torch.uint8
        np.testing.assert_array_equal(item["image"][0].numpy(), NOISE)


class TestAgainstThePredictor:
    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("models") / "model.pt"
        save_weights(LMSFESAM(preset="vit_t", balancing_adapter=False), path)
        return path

    def test_the_same_tensor(self, folder: Path, workflow: Run, checkpoint: Path) -> None:
        rng = np.random.default_rng(3)
        Image.fromarray(rng.integers(0, 256, (90, 200, 3), np.uint8)).save(folder / "a.png")
        Image.fromarray(rng.integers(0, 40000, (300, 280), np.uint16)).save(folder / "b.png")
        nib.save(nib.Nifti1Image(rng.normal(size=(50, 70, 1)), np.eye(4)), folder / "c.nii")
        save_dicom(folder / "d.dcm", rng.integers(0, 256, (256, 256), np.uint8))
        made = workflow(input=str(folder), checkpoint=str(checkpoint), mode="resize")
        items = list(made.dataset)
        assert len(items) == 4
        for item in items:
            image = item["image"].as_tensor()
            tensor = load_windows(image, [full_window((image.shape[1], image.shape[2]))], 256)[0]
            expected = prepare(read_image(folder / item["name"]).pixels, 256)
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6)

    def test_the_same_masks(self, folder: Path, tmp_path: Path, workflow: Run, checkpoint: Path) -> None:
        image = np.random.default_rng(4).integers(0, 256, (90, 120), np.uint8)
        Image.fromarray(image).save(folder / "a.png")
        objects = [
            {"box": [10, 12, 100, 80]},
            {"points": [[50, 40]], "labels": [1]},
            {"box": [10, 12, 60, 80], "points": [[33, 41], [20, 20]], "labels": [1, 0]},
        ]
        prompts = write_prompts(folder, **{"a.png": objects})
        made = finish(workflow(input=str(folder), prompts=prompts, checkpoint=str(checkpoint)))
        assert made.network_def.toggles["balancing_adapter"] is False
        predictor = Predictor.from_checkpoint(checkpoint)
        predictor.set_image(image)
        masks, iou, _ = predictor.predict_objects(read_prompts(prompts)["a.png"])
        expected = np.zeros(image.shape, int)
        for k in np.argsort(iou):
            expected[masks[k]] = k + 1
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")), expected)
        for row, value in zip(table(tmp_path / "out"), iou, strict=True):
            assert float(row["predicted_iou"]) == pytest.approx(value, abs=1e-5)

    def test_the_config_zooms_as_the_predictor_does(self, workflow: Run) -> None:
        assert workflow().inferer.zoom == AUTO

    def test_large_images_as_the_predictor_segments_them(
        self, folder: Path, tmp_path: Path, workflow: Run, checkpoint: Path
    ) -> None:
        image = np.random.default_rng(5).integers(0, 256, (700, 1200), np.uint8)
        Image.fromarray(image).save(folder / "a.png")
        objects = [
            {"box": [10, 12, 100, 80]},
            {"points": [[900, 400]], "labels": [1]},
            {"box": [200, 50, 1100, 650]},
        ]
        prompts = write_prompts(folder, **{"a.png": objects})
        finish(workflow(input=str(folder), prompts=prompts, checkpoint=str(checkpoint)))
        predictor = Predictor.from_checkpoint(checkpoint)
        predictor.set_image(image)
        labels, iou = predictor.segment(read_prompts(prompts)["a.png"])
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")), labels)
        for row, value in zip(table(tmp_path / "out"), iou, strict=True):
            assert float(row["predicted_iou"]) == pytest.approx(value, abs=1e-5)

    def test_the_config_normalises_as_the_network_wants(self, bundle_root: Path) -> None:
        config = json.loads((bundle_root / "configs" / "inference.json").read_text())
        normalise = config["preprocessing"]["transforms"][-1]
        assert tuple(normalise["subtrahend"]) == PIXEL_MEAN
        assert tuple(normalise["divisor"]) == PIXEL_STD

    def test_monai_finds_all_that_a_bundle_needs(self, workflow: Run, checkpoint: Path) -> None:
        made = workflow(checkpoint=str(checkpoint))
        assert made.check_properties() == []
        assert made.network_def(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 256, 256)

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            ({"checkpoint": "none.pt"}, r"checkpoint 'none\.pt' does not exist"),
            ({"preset": "vit_b"}, "preset 'vit_b' contradicts checkpoint"),
        ],
    )
    def test_a_checkpoint_that_does_not_fit(
        self, folder: Path, workflow: Run, checkpoint: Path, keys: dict, words: str
    ) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        with pytest.raises(Exception) as caught:
            finish(workflow(**{"input": str(folder), "checkpoint": str(checkpoint), **keys}))
        assert_sentence(caught.value, words)


class TestRefusals:
    def test_bad_files_are_left_out_and_named(self, folder: Path, tmp_path: Path, segment: Run) -> None:
        for name in ("a.png", "b.png", "c.png", "d.png"):
            Image.fromarray(NOISE).save(folder / name)
        whole = (folder / "b.png").read_bytes()
        (folder / "b.png").write_bytes(whole[: len(whole) // 2])
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 3), np.uint8), np.eye(4)), folder / "e.nii")
        prompts = write_prompts(folder, **{"c.png": [{"box": [192, 0, 500, 50]}], "d.png": [{"box": BOX}]})
        with pytest.raises(Exception) as caught:
            segment(input=str(folder), prompts=prompts)
        lines = str(find_input_error(caught.value)).splitlines()
        assert lines[0] == "3 of 5 inputs were left out:"
        assert "b.png' cannot be read as a picture" in lines[1]
        assert "object 1 of" in lines[2] and "c.png" in lines[2] and "192 x 128" in lines[2]
        assert "e.nii' has 3 slices: choose one with --slice 0 to --slice 2" in lines[3]
        assert len(lines) == 4
        masks = tmp_path / "out" / "masks"
        assert sorted(path.name for path in masks.iterdir()) == ["a.png", "d.png"]
        assert_in_place(np.asarray(Image.open(masks / "d.png")))
        assert [row["image"] for row in table(tmp_path / "out")] == ["a.png", "d.png"]

    def test_a_lone_bad_file(self, folder: Path, tmp_path: Path, segment: Run) -> None:
        (folder / "a.png").write_bytes(b"nonsense")
        with pytest.raises(Exception) as caught:
            segment(input=str(folder / "a.png"))
        assert_sentence(caught.value, r"^'.*a\.png' cannot be read as a picture")
        header = "image,object,area_px,area_mm2,x0,y0,x1,y1,predicted_iou,spacing_source,frame\n"
        assert (tmp_path / "out" / "objects.csv").read_text() == header

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            ({}, "input is missing"),
            ({"input": "nowhere"}, "input 'nowhere' does not exist"),
            ({"input": "."}, r"input '\.' holds no image"),
            ({"input": "@folder", "prompts": "none.json"}, r"prompts file 'none\.json' does not exist"),
            (
                {"input": "@folder", "output_ext": ".jpg"},
                r"output_ext is '\.jpg': give one of \.png, \.nii\.gz",
            ),
            ({"input": "@folder", "slice": -2}, "slice is -2"),
            (
                {"input": "@folder", "mode": "tiles"},
                "mode is 'tiles': give one of auto, resize, zoom, window",
            ),
            ({"input": "@folder", "zoom_share": 0}, "zoom_share is 0: give a number above 0 up to 1"),
            ({"input": "@folder", "zoom_below": 2}, "zoom_below is 2: give a number from 0 up to 1"),
            ({"input": "@folder", "window_size": 4}, "window_size is 4: give a whole number of at least 16"),
            (
                {"input": "@folder", "window_overlap": 1},
                "window_overlap is 1: give a number from 0 up to 0.9",
            ),
            ({"input": "@folder", "window_batch": 0}, "window_batch is 0: give a whole number of at least 1"),
            ({"input": "@folder", "device": "tpu9"}, "device is 'tpu9'"),
            ({"input": "@folder", "output_dir": "@folder/a.png"}, "output_dir .* cannot be written to"),
        ],
    )
    def test_wrong_keys_end_the_run_before_it_starts(
        self,
        folder: Path,
        tmp_path: Path,
        segment: Run,
        keys: dict,
        words: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        keys = {k: v.replace("@folder", str(folder)) if isinstance(v, str) else v for k, v in keys.items()}
        with pytest.raises(Exception) as caught:
            segment(**keys)
        assert_sentence(caught.value, words)
        assert not (folder.parent / "out" / "masks").exists()
