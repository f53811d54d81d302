"""One batch through the evaluation: which prompts the network gets, and where its predictions go."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drawing_network import DrawingNetwork
from evaluation_batches import disc, item, run
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.iteration import PromptedEvaluation, collate_cases
from lmsfe_sam.evaluation.metrics import score
from lmsfe_sam.evaluation.prediction import predict_clicks
from lmsfe_sam.evaluation.protocol import (
    CLICK_LIMIT,
    CONTROLS,
    JITTER_PERCENTS,
    MODES,
    control_mask,
    mode_box,
)
from lmsfe_sam.prompts.simulate import first_click


def bfloat16_engine(network: Any, amp: bool) -> SimpleNamespace:
    """The parts of an engine that an evaluation uses."""
    return SimpleNamespace(
        network=network,
        mode=lambda network: nullcontext(),
        amp=amp,
        amp_kwargs={"dtype": torch.bfloat16},
        state=SimpleNamespace(device=torch.device("cpu")),
    )


def test_the_precision_is_the_engines_on_its_own_device() -> None:
    """Autocast was always that of CUDA in float16, which does nothing on a CPU."""
    seen = []

    class Watched(DrawingNetwork):
        def encode(self, image: torch.Tensor) -> Any:
            seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            return super().encode(image)

    for amp in (False, True):
        PromptedEvaluation(("box",))(
            bfloat16_engine(Watched(), amp), collate_cases([item("a.png", disc(120, 90, 30))])
        )
    assert [enabled for enabled, _ in seen] == [False, True]
    assert seen[1][1] == torch.bfloat16


def test_each_batch_is_encoded_once_for_everything() -> None:
    network = DrawingNetwork()
    results = run(
        PromptedEvaluation(MODES),
        network,
        item("a.png", disc(120, 90, 30)),
        item("b.png", disc(60, 200, 40)),
        item("c.png", disc(200, 128, 25)),
    )
    assert network.encoded == 1
    assert len(network.calls) == 1 + CLICK_LIMIT + 1  # boxes at once, clicks one by one, nothing
    assert [result.image for result in results] == ["a.png", "b.png", "c.png"]
    for result in results:
        assert tuple(result.scores) == MODES
        assert (
            set(result.masks)
            == set(result.predicted_iou)
            == set(result.prompts)
            == set(MODES) - set(CONTROLS)
        )
        assert len(result.curves.jitter_dice) == len(JITTER_PERCENTS)
        assert len(result.curves.click_dice) == CLICK_LIMIT


def test_the_network_that_draws_ellipses_scores_as_the_control_does() -> None:
    results = run(PromptedEvaluation(MODES), DrawingNetwork(), item("a.png", disc(120, 90, 37)))
    for mode, control in (
        ("box", "control_ellipse"),
        ("box_jitter_10", "control_ellipse_jitter_10"),
        ("box_jitter_20", "control_ellipse_jitter_20"),
    ):
        assert results[0].scores[mode]["dice"] == pytest.approx(results[0].scores[control]["dice"], abs=2e-3)
        assert results[0].predicted_iou[mode] == 0.25
    assert results[0].curves.jitter_dice == pytest.approx(results[0].curves.jitter_ellipse_dice, abs=2e-3)
    assert results[0].curves.jitter_dice[0] == pytest.approx(results[0].scores["box"]["dice"], abs=1e-6)


def test_scores_are_those_of_the_stored_masks() -> None:
    truth = disc(70, 150, 45)
    result = run(PromptedEvaluation(MODES, seed=5), DrawingNetwork(), item("x.png", truth))[0]
    for mode in MODES:
        mask = control_mask(mode, truth, 5, "x.png") if mode in CONTROLS else result.masks[mode].unpack()
        assert result.scores[mode] == pytest.approx(score([mask], truth)[0], nan_ok=True)
    bright = np.zeros((256, 256), dtype=bool)
    bright[100:140, 100:140] = True
    np.testing.assert_array_equal(result.masks["none"].unpack(), bright)
    np.testing.assert_array_equal(result.truth.unpack(), truth)
    assert result.lesion_share == pytest.approx(truth.mean())


def test_boxes_shown_are_the_protocols() -> None:
    truth, network = disc(70, 150, 45), DrawingNetwork()
    result = run(PromptedEvaluation(MODES, seed=7), network, item("y.png", truth))[0]
    shown = network.calls[0]["boxes"][0]
    for place, mode in ((0, "box"), (JITTER_PERCENTS.index(10), "box_jitter_10")):
        expected = mode_box(mode, truth, 7, "y.png")
        np.testing.assert_allclose(shown[place], expected, rtol=1e-6)
        np.testing.assert_allclose(result.prompts[mode].box, expected)


def test_prompts_are_scaled_to_the_network_and_masks_back() -> None:
    shape = (400, 300)
    truth, network = disc(200, 120, 60, shape), DrawingNetwork()
    result = run(PromptedEvaluation(MODES), network, item("z.png", truth))[0]
    ratio = np.array([256 / 300, 256 / 400])
    tight = np.array([60, 140, 181, 261])
    np.testing.assert_allclose(network.calls[0]["boxes"][0, 0], tight * np.tile(ratio, 2), rtol=1e-5)
    np.testing.assert_allclose(network.calls[1]["points"][0, 0, 0], np.array([120, 200]) * ratio, rtol=1e-5)
    assert result.masks["box"].shape == shape
    assert result.prompts["box"].box == tuple(tight)
    assert result.scores["box"]["dice"] > 0.985


def test_images_of_native_sizes_share_a_batch() -> None:
    items = [item("a.png", disc(200, 120, 60, (400, 300))), item("b.png", disc(40, 90, 30, (128, 180)))]
    together = run(PromptedEvaluation(MODES), DrawingNetwork(), *items)
    apart = [run(PromptedEvaluation(MODES), DrawingNetwork(), one)[0] for one in items]
    for one, other in zip(together, apart, strict=True):
        for mode in MODES:
            assert one.scores[mode] == pytest.approx(other.scores[mode], nan_ok=True)
        assert one.curves == other.curves


def test_clicks_go_where_the_error_is_and_feed_the_logits_back() -> None:
    truth = disc(128, 128, 60)
    network = DrawingNetwork(radius=30)
    predictions, clicks = predict_clicks(network, network.encode(torch.zeros(1, 3, 256, 256)), [truth], 5)
    assert clicks[0][0] == (*first_click(truth), 1)
    assert network.calls[0].get("masks") is None
    for step in range(1, 5):
        call = network.calls[step]
        assert call["points"].shape == (1, 1, step + 1, 2)
        assert call["masks"].shape == (1, 1, 64, 64)
        x, y, label = clicks[0][step]
        before = predictions[0][step - 1].mask
        assert before[y, x] != truth[y, x] and label == truth[y, x]
    dice = [2 * (a.mask & truth).sum() / (a.mask.sum() + truth.sum()) for a in predictions[0]]
    assert dice == sorted(dice) and dice[-1] > dice[0]


def test_a_perfect_mask_gets_no_more_clicks_while_others_go_on() -> None:
    network = DrawingNetwork(radius=20)
    x, y = 100, 90
    perfect = network._discs(torch.tensor([[[[x, y]]]]).float(), torch.tensor([[[1]]]))[0, 0].numpy() > 0
    hard = disc(150, 150, 70)
    embedding = network.encode(torch.zeros(2, 3, 256, 256))
    predictions, clicks = predict_clicks(network, embedding, [perfect, hard], 4)
    assert clicks[0] == [(x, y, 1)]
    assert len(clicks[1]) == len(predictions[0]) == len(predictions[1]) == 4
    for prediction in predictions[0]:
        np.testing.assert_array_equal(prediction.mask, perfect)
    assert network.calls[-1]["point_labels"].tolist()[0] == [[1, -1, -1, -1]]
    alone, _ = predict_clicks(
        DrawingNetwork(radius=20), network.encode(torch.zeros(1, 3, 256, 256)), [hard], 4
    )
    np.testing.assert_array_equal(predictions[1][-1].mask, alone[0][-1].mask)


def test_point_is_the_first_of_the_five_clicks() -> None:
    result = run(PromptedEvaluation(MODES), DrawingNetwork(), item("a.png", disc(120, 90, 50)))[0]
    assert result.prompts["point"].points == result.prompts["clicks_5"].points[:1]
    assert len(result.prompts["clicks_5"].points) == 5
    assert result.curves.click_dice[0] == pytest.approx(result.scores["point"]["dice"], abs=1e-6)
    assert result.curves.click_dice[4] == pytest.approx(result.scores["clicks_5"]["dice"], abs=1e-6)
    assert result.curves.click_iou[4] == pytest.approx(result.scores["clicks_5"]["iou"], abs=1e-6)


def test_only_the_wanted_prompts_are_predicted() -> None:
    network = DrawingNetwork()
    results = run(
        PromptedEvaluation(("box", "point", "control_box"), curves=False),
        network,
        item("a.png", disc(120, 90, 50)),
    )
    assert len(network.calls) == 2
    assert network.calls[0]["boxes"].shape == (1, 1, 4)
    assert tuple(results[0].scores) == ("box", "point", "control_box")
    assert results[0].curves.click_dice == ()


def test_controls_need_no_network() -> None:
    result = run(PromptedEvaluation(CONTROLS), None, item("a.png", disc(120, 90, 50)))[0]
    assert tuple(result.scores) == CONTROLS
    assert result.masks == {} and result.curves.jitter_dice == ()


def test_the_prediction_can_be_empty() -> None:
    network = DrawingNetwork(radius=-1)
    result = run(PromptedEvaluation(MODES), network, item("a.png", disc(120, 90, 50)))[0]
    for mode in ("point", "clicks_5"):
        assert result.scores[mode]["dice"] == 0
        assert result.scores[mode]["hd"] == pytest.approx(256 * 2**0.5, abs=1e-6)


def test_millimetres_follow_the_squash() -> None:
    truth = np.zeros((256, 256), dtype=bool)
    truth[100:110, 100:120] = True
    known = item("a.png", truth, original_size=torch.tensor([512, 768]), spacing=[0.1, 0.1])
    unknown = item("b.png", truth, original_size=torch.tensor([512, 768]))
    for items in ((known, unknown), (unknown, known)):
        results = {result.image: result for result in run(PromptedEvaluation(CONTROLS), None, *items)}
        assert np.isnan(results["b.png"].scores["control_ellipse"]["hd_mm"])
        assert results["a.png"].scores["control_ellipse"]["hd_mm"] > 0
    # A prediction three pixels too wide at 256 is nine pixels of .1 mm too wide in the file.
    row = score([np.roll(truth, 3, axis=1)], truth, spacing=(0.1 * 2, 0.1 * 3))[0]
    assert row["hd_mm"] == pytest.approx(0.9)


@pytest.mark.parametrize("amp", [False, True])
def test_mixed_precision_is_that_of_training_on_the_engines_device(amp: bool) -> None:
    seen: list[torch.dtype] = []

    class Noting(DrawingNetwork):
        def encode(self, image: torch.Tensor) -> Any:
            seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
            return super().encode(image)

    PromptedEvaluation(MODES)(
        bfloat16_engine(Noting(), amp), collate_cases([item("a.png", disc(120, 90, 30))])
    )
    assert seen == [torch.bfloat16 if amp else torch.float32]


def test_a_lesion_that_vanishes_is_named() -> None:
    with pytest.raises(InputError, match=r"tiny\.png.*--metric_size native"):
        run(PromptedEvaluation(CONTROLS), None, item("tiny.png", np.zeros((256, 256), dtype=bool)))
