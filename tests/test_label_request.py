"""Parts of the annotation server: reading requests, labels as training data, the app's folder, the limit."""

from __future__ import annotations

import asyncio
import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.transforms import SLICE, LoadFileImaged
from lmsfe_sam.label.checks import check_tag
from lmsfe_sam.label.datastore.headers import uploaded
from lmsfe_sam.label.guard import LimitBody
from lmsfe_sam.label.request import (
    AnswerRequestd,
    ChooseSliced,
    ReadPromptsd,
    chosen_slice,
    label_suffix,
    read_prompt,
    read_region,
)
from lmsfe_sam.label.scoring import disagreement
from lmsfe_sam.label.start import prepare_app
from lmsfe_sam.label.training import check_label, check_raw_label, export_labels
from lmsfe_sam.prompts.prompt import ObjectPrompt

SIZE = (90, 120)
PLACES = st.integers(0, 100)


class TestRequests:
    @given(PLACES, PLACES, PLACES, PLACES, st.integers(0, 9), st.integers(0, 9))
    def test_a_box_is_the_same_in_every_order(
        self, x0: int, x1: int, y0: int, y1: int, k0: int, k1: int
    ) -> None:
        if x0 == x1 or y0 == y1:
            with pytest.raises(InputError, match="no area"):
                read_region([x0, y0, x1, y1])
            return
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        for roi in ([x0, y0, x1, y1], [x1, y0, x0, y1], [[x0, y0], [x1, y1]]):
            region = read_region(roi)
            assert region is not None and region.box == box and region.slices is None
        region = read_region([x0, x1, y0, y1, k0, k1])
        assert region is not None and region.box == box and region.slices == (min(k0, k1), max(k0, k1))

    @pytest.mark.parametrize(
        ("request_", "index"),
        [
            ({}, None),
            ({"slice": 4}, 4),
            ({"slice": -1}, None),
            ({"slice": -1, "foreground": [[1, 2, 7]]}, 7),
            ({"slice": 0, "foreground": [[1, 2, 7]]}, 0),
            ({"foreground": [[1, 2, 7], [1, 2, 3]], "background": [[1, 2, 5]]}, 3),
            ({"background": [[1, 2, 5]], "roi": [1, 2, 3, 4, 8, 8]}, 5),
            ({"roi": [1, 2, 3, 4, 8, 2]}, 5),
            ({"roi": [1, 2, 3, 4]}, None),
        ],
    )
    def test_the_slice_that_is_meant(self, request_: dict[str, Any], index: int | None) -> None:
        assert chosen_slice(request_) == index

    def test_prompts_of_other_slices_are_left_out(self) -> None:
        request = {"foreground": [[1, 2, 7], [3, 4, 6]], "background": [[5, 6]], "roi": [9, 1, 2, 8, 6, 6]}
        assert read_prompt(request, 6) == ObjectPrompt((1, 2, 9, 8), ((3, 4), (5, 6)), (1, 0))
        assert read_prompt(request, 7) == ObjectPrompt(None, ((1, 2), (5, 6)), (1, 0))
        with pytest.raises(InputError, match="none of the prompts lies on slice 2"):
            read_prompt({"foreground": [[1, 2, 7]]}, 2)

    def test_a_box_may_hang_over_whoever_sends_it(self) -> None:
        assert read_prompt({"roi": [-5, 300, -5, 40, 0, 0]}, None).box == (-5, -5, 300, 40)
        assert read_prompt({"roi": [-5, -5, 300, 40]}, None).box == (-5, -5, 300, 40)

    def test_records_of_the_command_line_pass_through(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "x.png")
        record = {"image": str(tmp_path / "x.png"), "prompts": [], "roi": "not looked at"}
        assert ChooseSliced()(record) == record
        loaded = LoadFileImaged("image")(record)
        assert ReadPromptsd()(loaded) == loaded
        assert AnswerRequestd()(loaded) == loaded

    def test_a_records_slice_comes_first(self, tmp_path: Path) -> None:
        volume = np.arange(5, dtype=np.uint8) * np.ones((4, 3, 1), np.uint8)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
        loaded = LoadFileImaged("image", slice_index=1)({"image": str(tmp_path / "v.nii"), SLICE: 4})
        assert loaded["image"].unique().tolist() == [4] and loaded["image"].meta[SLICE] == 4

    @pytest.mark.parametrize(
        ("image", "suffix"),
        [
            ("a.png", ".png"),
            ("a.JPG", ".png"),
            ("a.nii.gz", ".nii.gz"),
            ("a.dcm", ".nii.gz"),
            ("IM1", ".nii.gz"),
        ],
    )
    def test_labels_are_never_blurred(self, image: str, suffix: str) -> None:
        assert label_suffix(image) == suffix

    @pytest.mark.parametrize("tag", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", 3, None])
    def test_a_tag_is_a_plain_name(self, tag: Any) -> None:
        with pytest.raises(InputError, match="plain name"):
            check_tag(tag)

    def test_an_upload_is_named_as_the_client_named_it(self) -> None:
        file = io.BytesIO(b"1234")
        named = pytest.raises(InputError, match=r"^'scan\.nii\.gz' is bad")
        with named, uploaded(file, "folder/scan.nii.gz") as path:
            assert Path(path).read_bytes() == b"1234" and path.endswith(".nii.gz")
            raise InputError(f"'{path}' is bad")
        assert file.tell() == 0 and not Path(path).exists()


def save_pair(folder: Path, name: str, labelled: dict[int, int], slices: int = 4) -> dict[str, str]:
    """A volume and its label; ``labelled`` says which slice has how many pixels of label."""
    image = np.random.default_rng(slices).integers(0, 256, (12, 9, slices), np.uint8)
    label = np.zeros_like(image)
    for index, count in labelled.items():
        label[:count, 2, index] = 1
    pair = {"image": folder / f"{name}.nii.gz", "label": folder / f"{name}_label.nii.gz"}
    nib.save(nib.Nifti1Image(image, np.eye(4)), pair["image"])
    nib.save(nib.Nifti1Image(label, np.eye(4)), pair["label"])
    return {key: str(path) for key, path in pair.items()}


class TestLabels:
    def test_labelled_slices_become_a_data_list(self, tmp_path: Path) -> None:
        pairs = [save_pair(tmp_path, name, {0: 3, 2: 5}) for name in "abcd"]
        pairs.append(save_pair(tmp_path, "empty", {}))
        path = export_labels(pairs, tmp_path / "out", 0.25)
        content = json.loads(path.read_text())
        assert len(content["training"]) == 6 and len(content["validation"]) == 2
        groups = [{entry["group"] for entry in content[part]} for part in ("training", "validation")]
        assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 4
        for entry in (*content["training"], *content["validation"]):
            image = np.asarray(Image.open(path.parent / entry["image"]))
            mask = np.asarray(Image.open(path.parent / entry["label"]))
            assert image.shape == (9, 12, 3) and mask.shape == (9, 12)
            count = 3 if entry["name"].endswith("#0") else 5
            expected = np.zeros((9, 12), bool)
            expected[2, :count] = True
            np.testing.assert_array_equal(mask, expected * 255)

    def test_one_image_is_trained_and_validated_on(self, tmp_path: Path) -> None:
        path = export_labels([save_pair(tmp_path, "a", {1: 2})], tmp_path / "out", 0.2)
        content = json.loads(path.read_text())
        assert content["training"] == content["validation"]

    def test_nothing_labelled(self, tmp_path: Path) -> None:
        for pairs in ([], [save_pair(tmp_path, "a", {})]):
            with pytest.raises(InputError, match="no label to train on"):
                export_labels(pairs, tmp_path / "out", 0.2)

    def test_sizes_are_held_together(self, tmp_path: Path) -> None:
        one, other = save_pair(tmp_path, "a", {}), save_pair(tmp_path, "b", {}, slices=3)
        assert check_label(one["image"], one["label"]) == 4
        with pytest.raises(InputError, match="9 pixels in 3 slice"):
            check_label(one["image"], other["label"])
        raw = tmp_path / "label.bin"
        raw.write_bytes(bytes(12 * 9 * 4))
        check_raw_label(one["image"], raw)
        with pytest.raises(InputError, match="432 bytes and its image 324 pixels"):
            check_raw_label(other["image"], raw)


class TestFolder:
    def test_trained_weights_are_kept_until_the_bundle_has_others(self, tmp_path: Path) -> None:
        bundle, app = tmp_path / "bundle", tmp_path / "app"
        for part in ("configs", "models"):
            (bundle / part).mkdir(parents=True)
        weights = bundle / "models" / "model.pt"
        weights.write_bytes(b"first")
        prepare_app(app, bundle, ["auto", "deepgrow"])
        served = app / "model" / "deepgrow" / "models" / "model.pt"
        served.write_bytes(b"trained")
        prepare_app(app, bundle, ["auto", "deepgrow"])
        assert served.read_bytes() == b"trained"
        weights.write_bytes(b"second")
        prepare_app(app, bundle, ["auto", "deepgrow"])
        assert served.read_bytes() == b"second"
        aside = list((app / "before").glob("deepgrow-*/models/model.pt"))
        assert [path.read_bytes() for path in aside] == [b"trained"]

    @pytest.mark.parametrize("name", ["", "..", "a/b"])
    def test_a_name_is_a_folders(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "model.pt").touch()
        with pytest.raises(InputError, match="not a folder's name"):
            prepare_app(tmp_path / "app", tmp_path, [name])

    def test_a_bundle_has_weights(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="--bundle"):
            prepare_app(tmp_path / "app", tmp_path, ["a"])


def ask(limit: int, sizes: list[int], stated: int | None = None) -> tuple[int, int]:
    """Send a body in parts through `LimitBody`; return the status and how many bytes the app was given."""
    given_, sent = 0, []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal given_
        more = True
        while more:
            message = await receive()
            given_ += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    parts = iter([{"type": "http.request", "body": bytes(size), "more_body": True} for size in sizes])

    async def receive() -> Any:
        return next(parts, {"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if stated is None else [(b"content-length", str(stated).encode())]
    asyncio.run(LimitBody(app, limit)({"type": "http", "headers": headers}, receive, send))
    return sent[0]["status"], given_


class TestLimit:
    def test_what_is_small_passes(self) -> None:
        assert ask(100, [40, 60], 100) == (200, 100)

    def test_a_body_that_states_a_large_size_is_not_read(self) -> None:
        assert ask(100, [40, 60, 40], 140) == (413, 0)

    def test_what_turns_out_large_is_stopped(self) -> None:
        assert ask(100, [40, 60, 40, 40]) == (413, 100)


def test_masks_that_agree_are_certain() -> None:
    class Always:
        def __init__(self, mask: np.ndarray, last: np.ndarray | None = None) -> None:
            self.mask = mask
            self.last = ~mask if last is None else last

        def predict(self) -> Any:
            return self.mask[None], None, None

        def predict_objects(self, prompts: list[ObjectPrompt]) -> Any:
            assert len(prompts) == 6
            return np.stack([self.mask] * 4 + [self.last] * 2), None, None

    mask = np.zeros((20, 30), bool)
    assert disagreement(Always(mask)) == 1  # type: ignore[arg-type]
    mask[5:9, 7:20] = True
    assert disagreement(Always(mask)) == pytest.approx(10 / 21)  # type: ignore[arg-type]
    empty = np.zeros_like(mask)
    assert disagreement(Always(mask, empty)) == pytest.approx(10 / 21)  # type: ignore[arg-type]
    half = mask.copy()
    half[:, :12] = False
    overlap = 2 * half.sum() / (half.sum() + mask.sum())
    assert disagreement(Always(mask, half)) == pytest.approx(10 / 21 * (1 - overlap))  # type: ignore[arg-type]
