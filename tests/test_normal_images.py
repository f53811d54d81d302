"""Images without a lesion: where they go, what they teach, and how false positives are counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data_folders as make
from drawing_network import DrawingNetwork
from evaluation_batches import disc, item, run
from lmsfe_sam.data.checking import check_records
from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.datalist import DataList, build_datalist
from lmsfe_sam.data.transforms.loading import LoadUltrasoundd
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.iteration import PromptedEvaluation
from lmsfe_sam.evaluation.normal import false_positives
from lmsfe_sam.evaluation.protocol import ANNOTATED_MODES, CONTROLS, MODES, inscribed_ellipse
from lmsfe_sam.evaluation.settings import check_normal_images, usable_modes
from lmsfe_sam.model.mask_decoder import DecodedTokens
from lmsfe_sam.prompts.sampling import MixedPrompts, correct
from lmsfe_sam.training.iteration import usable_kinds
from lmsfe_sam.training.losses import PromptedLoss

NOTE = "normal images, without a lesion"


def blacken(root: Path, *numbers: int) -> None:
    for k in numbers:
        make.save(root / "masks" / f"case_{k}.png", np.zeros(make.SIZE, np.uint8))


def names(records: Any) -> list[str]:
    return sorted(record["name"] for record in records)


def test_the_division_of_the_others_stays_as_it_is(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path / "set", number=24)
    blacken(root, *range(12))
    without, having = build_datalist(root), build_datalist(root, normal_images=True)
    for part in ("train", "val", "test"):
        assert names(without.records[part]) == names(having.records[part])
    assert without.skipped == {NOTE: 12} and not without.select_normal("all")
    assert (
        having.skipped == {} and "normal images, without a lesion: 9 train, 1 val, 2 test" in having.summary()
    )
    assert len(having.select_normal("all")) == 12 and len(having.select_normal("test")) == 2
    assert all(record["normal"] for record in having.select_normal("all"))


def test_a_normal_image_goes_where_its_near_duplicates_are(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path / "set", number=12)
    blacken(root, *range(6))
    test = build_datalist(root).records["test"][0]
    twin = make.speckle(int(Path(test["image"]).stem.removeprefix("case_")))
    make.save(root / "images" / "case_3.png", np.clip(twin * 0.9 + 4, 0, 255).astype(np.uint8))
    found = build_datalist(root, normal_images=True)
    assert "images/case_3.png" in names(found.select_normal("test"))
    for part in ("train", "val", "test"):
        assert names(found.records[part]) == names(build_datalist(root).records[part])


def test_a_split_of_the_sets_own_is_kept(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        make.make_plain(tmp_path / part, number=3)
        blacken(tmp_path / part, 0)
    found = build_datalist(tmp_path, normal_images=True)
    assert names(found.select_normal("val")) == ["val/images/case_0.png"]
    assert len(found.select_normal("all")) == 3 and found.counts() == "2 train, 2 val, 2 test"


def test_busis_own_folder(tmp_path: Path) -> None:
    root = make.make_busi(tmp_path / "busi", normal=4)
    assert build_datalist(root).skipped == {NOTE: 4}
    found = build_datalist(root, normal_images=True)
    assert names(found.select_normal("all")) == [f"normal/normal ({k}).png" for k in (1, 2, 3, 4)]
    check_records(found.select_normal("all"))


def test_a_datalist_keeps_them(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path / "set")
    blacken(root, 2, 5)
    written = build_datalist(root, normal_images=True)
    written.write(root / "datalist.json")
    again = build_datalist(root, normal_images=True)
    assert names(again.select_normal("all")) == names(written.select_normal("all"))
    left_out = build_datalist(root)
    assert left_out.skipped == {NOTE: 2} and not left_out.select_normal("all")
    content = json.loads((root / "datalist.json").read_text())
    assert sum(content["counts"].values()) == 8
    lesion = next(entry for entry in content["training"] if not entry.get("normal"))
    lesion["normal"] = True
    (root / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"listed as normal, and its mask .* marks something"):
        check_records(build_datalist(root, normal_images=True).select_normal("all"))


def find(root: Path, **options: Any) -> DataList:
    return find_records(str(root), "auto", "group", 0, 0, normal_images=True, **options)


def test_what_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path / "set")
    with pytest.raises(InputError, match="set has no image whose mask is all black"):
        find(root)
    with pytest.raises(InputError, match="every phantom has a lesion"):
        find_records(None, "auto", "group", 0, 20, normal_images=True)
    blacken(root, 2, 5)
    assert len(find(root).select_normal("all")) == 2
    # Where "no prompt" means nothing, there is nothing that a normal image could be shown with.
    with pytest.raises(InputError, match="has no image whose mask is all black"):
        find(root, prompted_only=["set"])
    with pytest.raises(InputError, match="split 'val' has no image without a lesion"):
        check_normal_images(True, [], "val", MODES, None)
    with pytest.raises(InputError, match="mode none is not among"):
        check_normal_images(True, [{}], "val", ["box"], None)
    check_normal_images(True, [{}], "val", ["box"], "masks")


def test_two_sets_as_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        blacken(make.make_plain(tmp_path / name), 2, 5)
    folders = [str(tmp_path / name) for name in ("a", "b")]
    found = find_records(folders, "auto", "group", 0, 0, normal_images=True)
    assert names(found.select_normal("all")) == [f"{n}/images/case_{k}.png" for n in "ab" for k in (2, 5)]
    assert {record["subgroup"]["set"] for record in found.select_normal("all")} == {"a", "b"}


def test_it_loads_as_an_empty_label(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path / "set")
    blacken(root, 2)
    loaded = LoadUltrasoundd()(find(root).select_normal("all")[0])
    assert loaded["normal"] and loaded["unprompted"] and loaded["label"].shape == (1, *make.SIZE)
    assert not loaded["label"].any()


# --- training -------------------------------------------------------------------------------------


def test_it_is_never_prompted_nor_corrected() -> None:
    labels = torch.zeros(2, 1, 32, 32)
    labels[1, 0, 5:20, 5:20] = 1
    rng = np.random.default_rng(0)
    for _ in range(20):
        prompts, target = MixedPrompts(per_image=3)(labels, rng)
        assert not target[0].any() and target[1].any()
        if prompts.boxes is not None:
            assert prompts.boxes[0].isnan().all()
        if prompts.point_labels is not None:
            assert (prompts.point_labels[0] == -1).all()
        full = torch.ones(2, 3, 32, 32)
        after = correct(prompts, target, full, torch.ones(2, 3, 8, 8), rng)
        assert after.point_labels is not None and (after.point_labels[0] == -1).all()


def tokens(logit: float) -> DecodedTokens:
    masks = torch.full((1, 1, 4, 16, 16), logit, requires_grad=True)
    return DecodedTokens(masks, torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.bool))


@pytest.mark.parametrize(
    "loss", [PromptedLoss(), PromptedLoss(0, cross_entropy_weight=1, boundary_weight=0.25, others_weight=0.7)]
)
def test_the_losses_take_an_empty_target(loss: PromptedLoss) -> None:
    target = torch.zeros(1, 1, 64, 64)
    values = []
    for logit in (3.0, 0.0, -3.0, -9.0):
        given = tokens(logit)
        value = loss(given, target)
        value.backward()
        assert given.masks.grad is not None and math.isfinite(value.item())
        assert (given.masks.grad[0, 0, 0] > 0).all()  # each step makes the mask emptier
        values.append(value.item())
    assert values == sorted(values, reverse=True)


def test_networks_that_have_to_be_prompted_are_refused() -> None:
    class Boxes:
        title, prompt_kinds = "MedSAM", ("box",)

    with pytest.raises(InputError, match="MedSAM needs a prompt"):
        usable_kinds(Boxes(), {"box": 1.0, "none": 1.0}, normal_images=True)
    with pytest.raises(InputError, match="gives none no weight"):
        usable_kinds(DrawingNetwork(), {"box": 1.0}, normal_images=True)
    assert usable_kinds(DrawingNetwork(), {"box": 1.0, "none": 0.5}, normal_images=True)


# --- evaluation -----------------------------------------------------------------------------------


def test_false_positives_are_counted_apart() -> None:
    network = DrawingNetwork()
    empty = np.zeros((256, 256), bool)
    dark = item("dark.png", empty, normal=True)
    dark["image"] = torch.full((3, 256, 256), -1.0)
    items = [item("a.png", disc(120, 90, 30)), item("bright.png", empty, normal=True), dark]
    results = run(PromptedEvaluation(MODES), network, *items)
    assert [result.image for result in results] == ["a.png", "bright.png", "dark.png"]
    alone = run(PromptedEvaluation(MODES), DrawingNetwork(), items[0])[0]
    assert str(results[0].scores) == str(alone.scores)
    for normal in results[1:]:
        assert normal.scores == {} and list(normal.masks) == ["none"]
    found = false_positives(results[1:], ["g", "h"], 0, 50)["none"]
    assert (found.n_images, found.share.mean) == (2, 0.5)
    assert found.area.mean == pytest.approx(1600 / 256**2 / 2)
    assert found.as_json()["false_positives"]["mean"] == 0.5


def test_the_annotated_box_is_the_prompt() -> None:
    network = DrawingNetwork()
    size = torch.tensor([512, 1024])
    boxes = [[200, 100, 400, 300], [300, 120, 480, 330], [-50, -50, -1, 20]]
    given = item("a.png", disc(110, 85, 30), boxes=boxes, original_size=size)
    evaluation = PromptedEvaluation(("box", *ANNOTATED_MODES), curves=False)
    result = run(evaluation, network, given)[0]
    assert result.prompts["annotated_box"].box == (50, 50, 120, 165)
    np.testing.assert_allclose(network.calls[0]["boxes"][0, 1], [50, 50, 120, 165])
    ellipse = inscribed_ellipse((50, 50, 120, 165), (256, 256))
    np.testing.assert_array_equal(result.masks["annotated_box"].unpack(), ellipse)
    assert result.scores["annotated_box"] == pytest.approx(
        result.scores["control_ellipse_annotated"], nan_ok=True
    )
    curved = run(PromptedEvaluation((*MODES, *ANNOTATED_MODES)), DrawingNetwork(), given)[0]
    plain = run(PromptedEvaluation(MODES), DrawingNetwork(), given)[0]
    assert curved.curves == plain.curves
    assert all(str(curved.scores[mode]) == str(plain.scores[mode]) for mode in MODES)


def test_annotated_boxes_are_used_where_every_image_has_one(caplog: pytest.LogCaptureFixture) -> None:
    boxed, bare = {"name": "a", "boxes": [[0, 0, 1, 1]]}, {"name": "b", "boxes": []}
    network = DrawingNetwork()
    assert usable_modes(network, "all", records=[boxed]) == (*MODES, *ANNOTATED_MODES)
    assert usable_modes(network, "annotated_box", records=[boxed]) == ("annotated_box",)
    assert usable_modes(network, None, records=[{"name": "c"}]) == MODES and not caplog.text
    assert usable_modes(network, None, records=[boxed, bare]) == MODES
    assert "1 of 2 images have no annotated box, 'b' first" in caplog.text
    for mode in ANNOTATED_MODES:
        with pytest.raises(InputError, match="1 of 2 images have no annotated box, 'b' first"):
            usable_modes(network, [mode, *CONTROLS], records=[boxed, bare])
