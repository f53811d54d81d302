"""Sliding windows: MONAI's own blending where nothing is prompted, only the windows touched where it is."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch.nn import functional

from boxnet import BoxNetwork
from lmsfe_sam.errors import InputError
from lmsfe_sam.inference import sliding
from lmsfe_sam.inference.inferers import IOU, LABELS, PROMPTS
from lmsfe_sam.inference.sliding import (
    BlendedObject,
    PromptedWindowInferer,
    column_ranges,
    select_windows,
    window_grid,
)
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.predict.preprocessing import normalise
from lmsfe_sam.predict.zoom import WindowEncoder, WindowPrediction
from lmsfe_sam.prompts.coordinates import Window
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts
from tiny import SIZE, seeded_network

HEIGHT, WIDTH = 150, 210
IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH), np.uint8))


@pytest.fixture(scope="module")
def network() -> LMSFESAM:
    return seeded_network()


def with_prompts(prompts: list[ObjectPrompt], image: torch.Tensor = IMAGE) -> MetaTensor:
    return MetaTensor(image[None], meta={PROMPTS: Prompts.of(prompts).given()})


def boxed(*boxes: tuple[int, ...]) -> list[ObjectPrompt]:
    return [ObjectPrompt(box=box) for box in boxes]


def filled(*boxes: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        labels[y0:y1, x0:x1] = number
    return labels


class TestParity:
    @pytest.mark.parametrize(
        ("side", "overlap", "mode"),
        [(None, 0.5, "gaussian"), (None, 0.25, "constant"), (100, 0.5, "gaussian"), (150, 0.6, "gaussian")],
    )
    def test_the_same_as_monai_without_a_prompt(
        self, network: LMSFESAM, side: int | None, overlap: float, mode: str
    ) -> None:
        roi = side or SIZE

        def segment(parts: torch.Tensor) -> torch.Tensor:
            small = functional.interpolate(parts, size=(SIZE, SIZE), mode="bilinear", antialias=True)
            logits = network(normalise(small)) - offset
            return functional.interpolate(logits, size=(roi, roi), mode="bilinear")

        offset = torch.tensor(0.0)
        reference = SlidingWindowInferer((roi, roi), 3, overlap, mode)
        with torch.no_grad():
            offset = reference(IMAGE[None].float(), segment).median()
            expected = reference(IMAGE[None].float(), segment)[0, 0].numpy()

        class Shifted:
            """The network with its logits centred, so that half of the image is inside."""

            image_size = SIZE

            def parameters(self) -> object:
                return network.parameters()

            def encode(self, images: torch.Tensor) -> object:
                return network.encode(images)

            def decode(self, *args: object, **prompts: object) -> object:
                logits, iou, low_res = network.decode(*args, **prompts)
                return logits - offset, iou, low_res

        answer = PromptedWindowInferer(side, 3, overlap, mode)(with_prompts([ObjectPrompt()]), Shifted())
        found = answer[LABELS][0, 0].numpy() == 1
        assert 0.3 < found.mean() < 0.7
        wrong = found != (expected > 0)
        assert np.abs(expected[wrong]).max(initial=0) < 1e-4 * np.abs(expected).max()
        assert answer[IOU].shape == (1, 1)

    def test_an_image_smaller_than_a_window_is_one(self, network: LMSFESAM) -> None:
        small = IMAGE[:, :40, :50]
        answer = PromptedWindowInferer()(with_prompts([ObjectPrompt()], small), network)
        with torch.no_grad():
            square = functional.interpolate(
                small[None].float(), size=(SIZE, SIZE), mode="bilinear", antialias=True
            )
            logits = functional.interpolate(network(normalise(square)), size=(40, 50), mode="bilinear")[0, 0]
        wrong = (answer[LABELS][0, 0] == 1) != (logits > 0)
        assert logits[wrong].abs().max().item() < 1e-4 if wrong.any() else True

    def test_the_grid_is_complete(self) -> None:
        windows = window_grid((HEIGHT, WIDTH), 64, 0.5)
        covered = np.zeros((HEIGHT, WIDTH), bool)
        for window in windows:
            assert window.size == (64, 64)
            covered[window.slices] = True
        assert covered.all()
        assert [window.top for window in windows] == sorted(window.top for window in windows)


class TestPrompts:
    @pytest.mark.parametrize(
        "sides",
        [
            (70, 60, 90, 80),  # within several windows
            (20, 30, 190, 120),  # across all of them
            (31, 31, 33, 33),  # at the corner of a window
            (0, 0, 10, 10),
            (209, 149, 210, 150),  # the last pixel
            (0, 20, 1, 140),  # one pixel wide, at the border
            (63, 20, 65, 140),  # over the edge of the first window, one pixel inside
        ],
    )
    def test_a_box_comes_out_where_it_was(self, sides: tuple[int, ...]) -> None:
        answer = PromptedWindowInferer()(with_prompts(boxed(sides)), BoxNetwork().eval())
        np.testing.assert_array_equal(answer[LABELS][0, 0].numpy(), filled(sides))
        assert answer[LABELS].dtype == torch.uint8

    def test_only_windows_touched_are_encoded_and_each_once(self) -> None:
        stand_in = BoxNetwork().eval()
        many = boxed(*[(5 + k, 5, 20 + k, 20) for k in range(8)])  # all in the first window
        labels = PromptedWindowInferer(sw_batch_size=1)(with_prompts(many), stand_in)[LABELS]
        assert stand_in.encoded == 1
        assert sorted(labels.unique().tolist()) == list(range(9))
        PromptedWindowInferer(sw_batch_size=1)(with_prompts([ObjectPrompt()]), stand_in)
        assert stand_in.encoded == 1 + len(window_grid((HEIGHT, WIDTH), 64, 0.5))

    def test_the_better_object_wins_and_areas_weigh_the_iou(self) -> None:
        large, small = (10, 10, 60, 60), (30, 30, 50, 50)
        answer = PromptedWindowInferer()(with_prompts(boxed(large, small)), BoxNetwork().eval())
        expected = filled(large)
        expected[30:50, 30:50] = 2
        np.testing.assert_array_equal(answer[LABELS][0, 0].numpy(), expected)
        assert answer[IOU][0, 1] > answer[IOU][0, 0]

    def test_a_click_goes_to_the_windows_that_it_lies_in(self) -> None:
        answer = PromptedWindowInferer()(
            with_prompts([ObjectPrompt(points=[(100, 70)])]), BoxNetwork().eval()
        )
        ys, xs = np.nonzero(answer[LABELS][0, 0].numpy())
        assert np.hypot(xs + 0.5 - 100, ys + 0.5 - 70).max() < BoxNetwork.radius
        assert len(xs) > 100

    def test_two_clicks_far_apart_are_one_object(self) -> None:
        prompt = ObjectPrompt(points=[(20, 20), (190, 130)], labels=[1, 1])
        labels = PromptedWindowInferer()(with_prompts([prompt]), BoxNetwork().eval())[LABELS][0, 0].numpy()
        assert labels[20, 20] == labels[130, 190] == 1
        assert labels[70, 100] == 0

    def test_every_window_gets_what_the_prompts_are_there(self) -> None:
        encoded_boxes = []

        class Writing(BoxNetwork):
            def decode(self, embedding: object, boxes: torch.Tensor, **others: object) -> object:
                encoded_boxes.extend(boxes[:, 0].tolist())
                return super().decode(embedding, boxes, **others)

        sides = (40, 50, 100, 90)
        PromptedWindowInferer()(with_prompts(boxed(sides)), Writing().eval())
        prompts_of_all = Prompts.of(boxed(sides))
        views = select_windows(window_grid((HEIGHT, WIDTH), 64, 0.5), prompts_of_all)
        assert encoded_boxes == [prompts_of_all.clip(view.window).boxes[0].tolist() for view in views]
        assert len(views) == 4 * 4

    def test_more_than_one_image_is_refused(self) -> None:
        with pytest.raises(ValueError, match="one image at a time"):
            PromptedWindowInferer()(torch.zeros(2, 3, 64, 64), BoxNetwork())


class TestMemory:
    def test_only_a_row_of_windows_is_kept_of_the_logits(self) -> None:
        """A tall image: the sums never grow beyond one window's height."""
        blended = BlendedObject(slice(0, 64))
        weights = torch.ones(64, 64)
        for top in range(0, 64 * 50, 32):
            found = WindowPrediction(
                0, Window(top, 0, 64, 64), torch.ones(64, 64), torch.tensor(0.5), torch.empty(0)
            )
            blended.add(found, weights)
            assert blended._sums is not None and blended._sums.shape == (64, 64)
        blended.finish()
        assert blended._sums is None
        rows = [rows for (rows, _), _ in blended.parts()]
        assert rows[0].start == 0 and rows[-1].stop == 32 * 101
        assert all(one.stop == other.start for one, other in pairwise(rows))
        assert blended.iou == 0.5

    def test_done_objects_keep_prompts_of_all_strips_alone(self, network: LMSFESAM) -> None:
        prompts = boxed((10, 10, 40, 40), (150, 100, 200, 140))
        objects = PromptedWindowInferer().segment(
            network, WindowEncoder(network, IMAGE), Prompts.of(prompts), (HEIGHT, WIDTH)
        )
        assert all(one._sums is None for one in objects)

    def test_columns_that_the_windows_of_an_object_reach(self) -> None:
        prompts_of_all = Prompts.of(boxed((0, 0, 10, 10), (100, 0, 140, 10)))
        views = select_windows(window_grid((64, 210), 64, 0.5), prompts_of_all)
        assert column_ranges(views, 2) == [slice(0, 64), slice(64, 192)]

    def test_nothing_found_is_an_empty_object(self) -> None:
        dark = torch.zeros(3, 100, 100, dtype=torch.uint8)
        answer = PromptedWindowInferer()(with_prompts([ObjectPrompt()], dark), BoxNetwork().eval())
        assert answer[LABELS].sum() == 0
        assert answer[IOU].tolist() == [[0.5]]


class TestHowLongItTakes:
    def test_far_too_many_windows_are_refused_before_they_are_listed(self) -> None:
        with pytest.raises(InputError, match="window_size 16 makes 2247001 windows of an"):
            window_grid((12000, 12000), 16, 0.5)

    @pytest.mark.parametrize("size", [(150, 210), (64, 64), (10, 300), (65, 63)])
    @pytest.mark.parametrize("step", [0.5, 0.1, 1.0])
    def test_they_are_counted_as_monai_makes_them(
        self, size: tuple[int, int], step: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = len(window_grid(size, 64, step))
        monkeypatch.setattr(sliding, "MAX_WINDOWS", count)
        window_grid(size, 64, step)
        monkeypatch.setattr(sliding, "MAX_WINDOWS", count - 1)
        with pytest.raises(InputError, match=f"makes {count} windows"):
            window_grid(size, 64, step)

    def test_a_long_image_says_how_long(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        inferer = PromptedWindowInferer(64)
        inferer(with_prompts([]), BoxNetwork())
        assert "about" not in caplog.text
        monkeypatch.setattr(sliding, "LONG", 0.0)
        inferer(with_prompts([]), BoxNetwork())
        assert re.search(r"\d+ windows of 210 x 150 pixels: about \d+ minutes", caplog.text)
