"""Masks of another program: found by name, read as masks are, and refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import run as run_bundle
from PIL import Image

from lmsfe_sam import tables
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.foreign_masks import ForeignMasks, foreign_masks
from lmsfe_sam.data.phantoms import __main__ as phantoms
from lmsfe_sam.errors import InputError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "made up"
    phantoms.main(["--output", str(path), "--count", "3", "--seed", "5"])
    return path


@pytest.fixture
def masks(data: Path, tmp_path: Path) -> Path:
    """The truth itself, in three kinds of files: two values, class values, and nothing predicted."""
    folder = tmp_path / "nnU-Net"
    folder.mkdir()
    first, second, third = sorted((data / "masks").iterdir())
    truth = [np.asarray(Image.open(file)) > 0 for file in (first, second, third)]
    Image.fromarray(truth[0]).save(folder / f"{first.stem}.png")
    nibabel.Nifti1Image(truth[1].T.astype(np.uint8) * 2, np.eye(4)).to_filename(
        folder / f"{second.stem}.nii.gz"
    )
    Image.fromarray(np.zeros_like(truth[2], np.uint8)).save(folder / f"{third.stem}.png")
    return folder


def records(data: Path) -> list[dict[str, Any]]:
    return build_datalist(data).select("all")


def test_masks_are_found_and_read(data: Path, masks: Path) -> None:
    found = ForeignMasks(str(masks), records(data), 256)
    names = [record["name"] for record in records(data)]
    for name, file in zip(names[:2], sorted((data / "masks").iterdir())[:2], strict=True):
        truth = np.asarray(Image.open(file)) > 0
        assert np.array_equal(found(name, (truth.shape[0], truth.shape[1])), truth)
    assert found(names[0], (256, 256)).shape == (256, 256)
    assert not found(names[2], (256, 256)).any()
    assert foreign_masks(None, records(data), 256) is None


def test_subfolders_are_those_of_the_images(data: Path, masks: Path) -> None:
    (masks / "images").mkdir()
    for file in list(masks.glob("*.*")):
        file.rename(masks / "images" / file.name)
    assert len(ForeignMasks(str(masks), records(data), 256).files) == 3


def test_refusals(data: Path, masks: Path) -> None:
    with pytest.raises(InputError, match="predictions 'nowhere' is no folder"):
        ForeignMasks("nowhere", records(data), 256)
    with pytest.raises(InputError, match="predictions hold all objects of an image: use --objects union"):
        foreign_masks(str(masks), records(data), 256, "parts")
    first = next(masks.glob("*.nii.gz"))
    first.rename(masks / "other.nii.gz")
    with pytest.raises(
        InputError,
        match=r"no mask of 1 of 3 images, 'images/phantom_00001\.png' first, but has 'other\.nii\.gz': give",
    ):
        ForeignMasks(str(masks), records(data), 256)
    first = (masks / "other.nii.gz").rename(first)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(masks / "more.png")
    with pytest.raises(
        InputError, match=r"has 1 of its masks without an image that is evaluated, 'more\.png' first"
    ):
        ForeignMasks(str(masks), records(data), 256)
    (masks / "more.png").unlink()
    Image.fromarray(np.zeros((9, 11), np.uint8)).save(next(masks.glob("*.png")))
    with pytest.raises(InputError, match=r"is 11 x 9 pixels \(width x height\), its image \d+ x \d+: give"):
        ForeignMasks(str(masks), records(data), 256)


@pytest.mark.parametrize("word", ["_mask", "_0000", "-pred", ".Segmentation", " label"])
def test_a_word_may_stand_behind_each_name(data: Path, masks: Path, word: str) -> None:
    first, *rest = sorted(masks.iterdir())
    for file in (first, *rest):
        name, _, suffix = file.name.partition(".")
        file.rename(masks / f"{name}{word}.{suffix}")
    found = ForeignMasks(str(masks), records(data), 256).files
    assert [file.name.partition(".")[0] for file in found.values()] == [
        f"{Path(name).stem}{word}".partition(".")[0] for name in found
    ]
    bare = sorted(masks.iterdir())[0].rename(first)
    with pytest.raises(
        InputError, match=rf"no mask of 2 of 3 images, .* first, but has '{rest[0].stem[:13]}"
    ):
        ForeignMasks(str(masks), records(data), 256)
    assert bare.is_file()


def test_hidden_files_are_no_masks(data: Path, masks: Path) -> None:
    """Such as those of macOS's archives and of notebooks."""
    file = next(masks.glob("*.png"))
    (masks / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    (masks / ".ipynb_checkpoints").mkdir()
    (masks / ".ipynb_checkpoints" / file.name).write_bytes(file.read_bytes())
    assert len(ForeignMasks(str(masks), records(data), 256).files) == 3


def test_files_of_no_known_format_are_named(data: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "phantom_00000.npy", np.zeros((9, 9)))
    with pytest.raises(InputError, match=r"of 3 of 3 images, .* but has 'phantom_00000\.npy': .* format"):
        ForeignMasks(str(tmp_path), records(data), 256)


def test_a_file_that_is_no_mask_is_refused_before_any_work(data: Path, masks: Path) -> None:
    """Not when its image's turn comes, after hours of the network's work."""
    file = next(masks.glob("*.png"))
    image = Image.open(data / "images" / file.name)
    image.save(file)
    with pytest.raises(InputError, match="is no mask"):
        ForeignMasks(str(masks), records(data), 256)
    pages = [Image.new("L", image.size, value) for value in (0, 255)]
    file.unlink()
    pages[0].save(file.with_suffix(".tif"), save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="has 2 slices, but predictions are files of one: save"):
        ForeignMasks(str(masks), records(data), 256)


@pytest.fixture
def _bundle(bundle_root: Path, monkeypatch: pytest.MonkeyPatch, restored_globals: None) -> None:
    monkeypatch.chdir(bundle_root)


@pytest.mark.usefixtures("_bundle")
def test_they_are_a_row_beside_the_controls(
    data: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"dataset_dir": str(data), "prompt_modes": "control_ellipse,control_box", "bootstrap": 10}
    options |= {"config_file": ["configs/train.json", "configs/evaluate.json"], "device": "cpu"}
    run_bundle(run_id="evaluating", **options, output_dir=str(tmp_path / "a"))
    run_bundle(run_id="evaluating", **options, output_dir=str(tmp_path / "b"))
    others = [str(tmp_path / name) for name in "ab"]
    out = tmp_path / "out"
    run_bundle(run_id="evaluating", **options, predictions=str(masks), compare=others, output_dir=str(out))
    content = json.loads((out / "summary.json").read_text())
    assert list(content["prompts"]) == ["predictions", "control_box", "control_ellipse"]
    assert content["prompts"]["predictions"]["dice"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert content["prompts"]["predictions"]["hd"]["mean"] == pytest.approx(256 * 2**0.5 / 3, abs=1e-3)
    assert [own["same_protocol"] for own in content["compare"]] == [True, True]
    assert "this run minus prompt" in capsys.readouterr().out
    tables.main(["--runs", str(out)])
    assert "| nnU-Net | masks of another program |" in capsys.readouterr().out
