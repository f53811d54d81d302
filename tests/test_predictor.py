"""One encoding, many prompts; numpy in, numpy out, at the image's own size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxnet import BoxNetwork
from lmsfe_sam import LMSFESAM, Predictor
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.predict.decoding import CHUNK
from lmsfe_sam.predict.postprocessing import masks_at
from lmsfe_sam.predict.preprocessing import prepare
from lmsfe_sam.predict.zoom import Zoom
from lmsfe_sam.prompts.prompt import ObjectPrompt

HEIGHT, WIDTH = 128, 192


@pytest.fixture
def network() -> BoxNetwork:
    return BoxNetwork()


@pytest.fixture
def predictor(network: BoxNetwork) -> Predictor:
    predictor = Predictor(network)
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8))
    return predictor


@pytest.fixture(scope="module")
def vit_t() -> Iterator[LMSFESAM]:
    torch.manual_seed(0)
    yield LMSFESAM(preset="vit_t")


class TestPlaces:
    def test_a_box_lands_where_it_was_put(self, predictor: Predictor) -> None:
        masks, iou, low_res = predictor.predict(box=[30, 42, 180, 100])
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[42:100, 30:180] = True
        assert (masks[0] != expected).sum() <= 4  # a corner may be rounded
        assert masks.dtype == bool
        assert iou.shape == (1,)
        assert low_res.shape == (1, 16, 16)

    def test_a_click_lands_where_it_was_put(self, predictor: Predictor) -> None:
        masks, _, _ = predictor.predict(points=[[150, 30]], labels=[1])
        rows, columns = np.nonzero(masks[0])
        assert abs(rows.mean() - 30) < 1.5
        assert abs(columns.mean() - 150) < 2.0
        assert rows.std() < columns.std()

    def test_a_negative_click_takes_away(self, predictor: Predictor) -> None:
        whole, _, _ = predictor.predict(points=[[150, 30]])
        less, _, _ = predictor.predict(points=[[150, 30], [160, 30]], labels=[1, 0])
        assert 0 < less.sum() < whole.sum()
        assert not (less & ~whole).any()

    def test_a_box_may_reach_over_the_border(self, predictor: Predictor) -> None:
        masks, _, _ = predictor.predict(box=[-12.5, 42, 60, 140])
        assert masks[0, 43:, :59].all()

    def test_no_prompt_segments_something(self, predictor: Predictor, network: BoxNetwork) -> None:
        masks, _, _ = predictor.predict()
        np.testing.assert_array_equal(masks, masks_at(network.seen.mean(dim=1), (HEIGHT, WIDTH)))


class TestCalls:
    def test_an_image_is_encoded_once(self, predictor: Predictor, network: BoxNetwork) -> None:
        for _ in range(3):
            predictor.predict(box=[30, 42, 180, 100])
        assert network.encoded == 1
        predictor.set_image(np.zeros((10, 20, 3), np.uint8))
        assert network.encoded == 2
        assert predictor.image_size == (10, 20)
        assert predictor.predict(box=[1, 1, 5, 5])[0].shape == (1, 10, 20)

    def test_the_network_sees_what_prepare_makes(self, predictor: Predictor, network: BoxNetwork) -> None:
        image = np.random.default_rng(1).integers(0, 60000, (50, 70), np.uint16)
        predictor.set_image(image)
        torch.testing.assert_close(network.seen[0], prepare(image, 64), rtol=0, atol=0)

    def test_three_masks(self, predictor: Predictor) -> None:
        masks, iou, low_res = predictor.predict(points=[[150, 30]], labels=[1], multimask_output=True)
        assert masks.shape == (3, HEIGHT, WIDTH)
        assert iou.shape == (3,)
        assert low_res.shape == (3, 16, 16)

    def test_a_mask_goes_back_in(self, predictor: Predictor) -> None:
        _, _, low_res = predictor.predict(box=[30, 42, 180, 100])
        for mask in (low_res, low_res[0], low_res.tolist(), torch.from_numpy(low_res)):
            masks, _, _ = predictor.predict(points=[[150, 30]], labels=[1], mask=mask)
            assert masks.shape == (1, HEIGHT, WIDTH)
        alone, _, _ = predictor.predict(points=[[150, 30]], labels=[1])
        assert (masks != alone).any()

    def test_arrays_lists_and_tensors_are_the_same(self, predictor: Predictor) -> None:
        box = [30, 42, 180, 100]
        reference = predictor.predict(box=box)[0]
        for form in (tuple(box), np.array(box), np.array(box, np.float32), torch.tensor(box)):
            np.testing.assert_array_equal(predictor.predict(box=form)[0], reference)

    def test_many_objects_in_chunks_are_as_one_by_one(
        self, predictor: Predictor, network: BoxNetwork
    ) -> None:
        prompts = [ObjectPrompt(box=[k, k, k + 40, k + 50]) for k in range(CHUNK + 5)]
        prompts[3] = ObjectPrompt(points=[[20, 30], [25, 35]], labels=[1, 0])
        prompts[CHUNK] = ObjectPrompt()
        masks, iou, low_res = predictor.predict_objects(prompts)
        assert network.decoded == [CHUNK, 5]
        for row in (0, 3, CHUNK, CHUNK + 4):
            prompt = prompts[row]
            one = predictor.predict(prompt.box, prompt.points, prompt.labels)
            np.testing.assert_array_equal(masks[row], one[0][0])
            assert iou[row] == one[1][0]
            np.testing.assert_array_equal(low_res[row], one[2][0])


class TestRefusals:
    def test_predict_before_set_image(self, network: BoxNetwork) -> None:
        predictor = Predictor(network)
        for call in (predictor.predict, lambda: predictor.predict_objects([]), lambda: predictor.image_size):
            with pytest.raises(InputError, match="call set_image first"):
                call()

    def test_a_failed_set_image_leaves_no_stale_image(self, predictor: Predictor) -> None:
        with pytest.raises(InputError, match="empty"):
            predictor.set_image(np.zeros((0, 5), np.uint8))
        with pytest.raises(InputError, match="set_image"):
            predictor.predict()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"box": [180, 42, 30, 100]}, "inverted"),
            ({"box": [30, 42, 30, 100]}, "no area"),
            ({"box": [[30, 42, 180, 100]]}, "x0, y0, x1, y1"),
            ({"box": [200, 0, 300, 100]}, "lies outside"),
            ({"points": [[192, 5]]}, "lies outside"),
            ({"points": [[5, 5]], "labels": [1, 1]}, "1 point but 2 labels"),
            ({"points": [[5, 5]], "labels": [7]}, "label 7"),
            ({"points": [5, 5]}, r"\[x, y\]"),
            ({"points": [[5, 5], [6]]}, r"\[x, y\]"),
            ({"labels": [1]}, "0 points"),
            ({"mask": np.zeros((3, 16, 16))}, "holds 3 masks: choose one"),
            ({"mask": np.zeros((16,))}, "mask prompt"),
            ({"mask": np.full((16, 16), np.nan)}, "finite"),
            ({"mask": np.zeros((0, 16, 16))}, "mask prompt"),
        ],
    )
    def test_bad_prompts(self, predictor: Predictor, arguments: dict, words: str) -> None:
        with pytest.raises(InputError, match=words):
            predictor.predict(**arguments)

    @pytest.mark.parametrize("argument", ["box", "points", "labels", "mask", "multimask_output"])
    @pytest.mark.parametrize(
        "value",
        [1, 0, 1.5, 1j, "1", "", b"1", {}, {"a": 1}, {1, 2}, range(4), object(), Predictor, np.nan, 10**400,
         [1j], [None], [[]], [[[]]], ["a", "b"], [[1, 2], [3]], [True, False], [1e400, 1, 2, 3],
         np.array(1), np.array(1j), np.array([1j, 2]), np.array(["a"]), np.array([None]),
         np.zeros((2, 2, 2, 2)), torch.tensor(1), torch.tensor([1j]), torch.zeros(3, requires_grad=True),
         np.full((4, 4), np.nan), np.full((4, 4), 1e300), np.zeros((4, 4), np.complex64), [10**5000] * 4,
         [[1, 2]] * 2 + [[3]], lambda: 1],
        ids=lambda value: f"{type(value).__name__} {value!r:.20}" if not isinstance(value, list) else "list",
    )  # fmt: skip
    def test_whatever_is_given_ends_in_a_sentence(
        self, predictor: Predictor, argument: str, value: Any
    ) -> None:
        arguments = {"points": [[50, 50]], argument: value} if argument == "labels" else {argument: value}
        if argument == "multimask_output" and isinstance(value, bool):
            return
        with pytest.raises(InputError) as caught:
            predictor.predict(**arguments)
        assert len(str(caught.value)) <= 500 and "\n" not in str(caught.value)

    @pytest.mark.parametrize("value", [1, "a", None, {}, [1], [[0, 0, 4, 4]], [None]], ids=repr)
    def test_what_is_no_list_of_prompts_is_named(self, predictor: Predictor, value: Any) -> None:
        for call in (predictor.predict_objects, predictor.segment):
            with pytest.raises(InputError):
                call(value)

    @pytest.mark.parametrize(
        "image",
        [1, 1j, "a", None, {}, [], [[]], [[1, 2], [3]], object(), np.zeros((4, 4), complex),
         np.zeros((4, 4), "U3"), np.zeros((2, 2, 7)),
         np.full((4, 4), np.nan), np.array([[None]]), [[10**400]], np.zeros((4, 0))],
        ids=lambda value: f"{type(value).__name__} {value!r:.20}",
    )  # fmt: skip
    def test_what_is_no_image_is_named(self, predictor: Predictor, image: Any) -> None:
        with pytest.raises(InputError):
            predictor.set_image(image)

    def test_the_widest_range_of_numbers_is_an_image(self, predictor: Predictor) -> None:
        predictor.set_image(np.array([[-1.7e308, 1.7e308], [0, 0]]))
        assert predictor._image[0].tolist() == [[0, 255], [128, 128]]

    def test_no_objects(self, predictor: Predictor) -> None:
        with pytest.raises(InputError, match="empty"):
            predictor.predict_objects([])

    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"model\.pt"):
            Predictor.from_bundle(tmp_path / "nowhere")


class TestLabelMaps:
    def test_large_objects_are_those_of_predict_objects(
        self, predictor: Predictor, network: BoxNetwork
    ) -> None:
        prompts = [ObjectPrompt(box=(10, 10, 150, 100)), ObjectPrompt(box=(100, 60, 190, 120))]
        masks, iou, _ = predictor.predict_objects(prompts)
        labels, same_iou = predictor.segment(prompts, Zoom(below=0.01))
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for k in np.argsort(iou):
            expected[masks[k]] = k + 1
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_allclose(same_iou, iou)
        assert network.encoded == 1  # set_image's

    def test_small_objects_are_segmented_in_a_window(self, predictor: Predictor, network: BoxNetwork) -> None:
        labels, iou = predictor.segment([ObjectPrompt(box=(100, 50, 110, 58))], Zoom(0.2, min_side=1))
        assert network.encoded == 2
        assert iou.shape == (1,) and labels.dtype == np.uint8
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[50:58, 100:110] = True
        np.testing.assert_array_equal(labels == 1, expected)

    def test_no_prompt_and_prompts_outside_are_refused(self, predictor: Predictor) -> None:
        with pytest.raises(InputError, match="list of prompts is empty"):
            predictor.segment([])
        with pytest.raises(InputError, match="lies outside the image"):
            predictor.segment([ObjectPrompt(points=[(500, 5)])])
        with pytest.raises(InputError, match="call set_image first"):
            Predictor(BoxNetwork()).segment([ObjectPrompt(box=(0, 0, 5, 5))])


class TestTheNetwork:
    def test_shapes_and_agreement_with_the_network(self, vit_t: LMSFESAM) -> None:
        image = np.random.default_rng(2).integers(0, 256, (100, 150, 3), np.uint8)
        predictor = Predictor(vit_t)
        assert not vit_t.training
        predictor.set_image(image)
        masks, iou, low_res = predictor.predict(box=[15, 20, 75, 90], points=[[30, 40]], labels=[1])
        with torch.no_grad():
            logits, expected_iou = vit_t(
                prepare(image, 256)[None],
                boxes=torch.tensor([[[15, 20, 75, 90]]]) * torch.tensor([256 / 150, 2.56, 256 / 150, 2.56]),
                points=torch.tensor([[[[30, 40]]]]) * torch.tensor([256 / 150, 2.56]),
                point_labels=torch.ones(1, 1, 1),
            )
        np.testing.assert_array_equal(masks, masks_at(logits[0], (100, 150)))
        np.testing.assert_allclose(iou, expected_iou[0].numpy(), atol=1e-6)
        assert low_res.shape == (1, 64, 64)
        again = predictor.predict(points=[[100, 60]], labels=[1], mask=low_res, multimask_output=True)
        assert again[0].shape == (3, 100, 150)

    def test_a_batch_is_as_one_by_one(self, vit_t: LMSFESAM) -> None:
        predictor = Predictor(vit_t)
        predictor.set_image(np.random.default_rng(3).random((80, 60)))
        prompts = [
            ObjectPrompt(),
            ObjectPrompt(points=[[20, 30]]),
            ObjectPrompt(box=[5, 5, 50, 70], points=[[20, 30], [2, 2]], labels=[1, 0]),
            ObjectPrompt(box=[5, 5, 50, 70]),
        ]
        _, iou, low_res = predictor.predict_objects(prompts)
        for row, prompt in enumerate(prompts):
            _, one_iou, one_low_res = predictor.predict(prompt.box, prompt.points, prompt.labels)
            np.testing.assert_allclose(iou[row], one_iou[0], atol=1e-5)
            np.testing.assert_allclose(low_res[row], one_low_res[0], atol=1e-4)

    def test_from_a_bundle(self, vit_t: LMSFESAM, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        save_weights(vit_t, tmp_path / "models" / "model.pt")
        image = np.random.default_rng(4).integers(0, 256, (90, 70), np.uint8)
        logits = []
        for predictor in (
            Predictor(vit_t),
            Predictor.from_bundle(tmp_path),
            Predictor.from_bundle(str(tmp_path)),
        ):
            predictor.set_image(image)
            logits.append(predictor.predict(points=[[30, 40]], labels=[1])[2])
        np.testing.assert_array_equal(logits[0], logits[1])
        np.testing.assert_array_equal(logits[0], logits[2])

    def test_no_gradient_is_kept(self, vit_t: LMSFESAM) -> None:
        predictor = Predictor(vit_t)
        predictor.set_image(np.zeros((20, 20), np.uint8))
        predictor.predict()
        assert not predictor._current_embedding().features.requires_grad
