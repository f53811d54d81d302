"""Predicting objects in windows, and zooming: each window encoded once, masks in the right place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from boxnet import BoxNetwork
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.predict import decoding
from lmsfe_sam.predict.decoding import decode_objects
from lmsfe_sam.predict.postprocessing import paint_objects
from lmsfe_sam.predict.preprocessing import prepare
from lmsfe_sam.predict.zoom import View, WindowEncoder, Zoom, group_by_window, mask_box, predict_windows
from lmsfe_sam.prompts.coordinates import Window, full_window
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts
from tiny import SIZE, seeded_network

HEIGHT, WIDTH = 300, 400
WHOLE = full_window((HEIGHT, WIDTH))
IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH), np.uint8))


@pytest.fixture(scope="module")
def network() -> LMSFESAM:
    return seeded_network()


def zoomed(zoom: Zoom, prompts: list[ObjectPrompt], stand_in: BoxNetwork) -> np.ndarray:
    encode = WindowEncoder(stand_in, IMAGE)  # type: ignore[arg-type]
    found = zoom.segment(stand_in, encode, Prompts.of(prompts), (HEIGHT, WIDTH))  # type: ignore[arg-type]
    return paint_objects([one.parts() for one in found], [float(one.iou) for one in found], (HEIGHT, WIDTH))


def windows_of(zoom: Zoom, prompts: list[ObjectPrompt], stand_in: BoxNetwork | None = None) -> list[Window]:
    network = stand_in or BoxNetwork().eval()
    encode = WindowEncoder(network, IMAGE)  # type: ignore[arg-type]
    found = zoom.segment(network, encode, Prompts.of(prompts), (HEIGHT, WIDTH))  # type: ignore[arg-type]
    return [one.window for one in found]


class TestWindows:
    def test_each_object_as_if_it_were_alone(
        self, network: LMSFESAM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Windows in batches, prompts of all kinds and chunks: no answer depends on its company."""
        monkeypatch.setattr(decoding, "CHUNK", 3)
        prompts = [
            ObjectPrompt(box=(10, 20, 90, 80)),
            ObjectPrompt(points=[(30, 40), (60, 60)], labels=[1, 0]),
            ObjectPrompt(box=(150, 20, 350, 280), points=[(200, 100)], labels=[1]),
            ObjectPrompt(),
        ]
        batch_prompts = Prompts.of(prompts)
        views = [
            View(Window(0, 0, 100, 120), [0, 1]),
            View(Window(10, 100, 290, 300), [2, 3]),
            View(WHOLE, [0, 1, 2, 3]),
        ]
        answers = list(
            predict_windows(network, WindowEncoder(network, IMAGE), views, batch_prompts, batch_size=2)
        )
        assert [(one.object, one.window) for one in answers] == [
            (row, view.window) for view in views for row in view.objects
        ]
        picture = IMAGE.permute(1, 2, 0).numpy()
        for one in answers:
            window = one.window
            alone = batch_prompts.select([one.object])
            corner = torch.tensor([window.left, window.top])
            moved = Prompts(alone.boxes - corner.repeat(2), alone.points - corner, alone.point_labels)
            with torch.no_grad():
                embedding = network.encode(prepare(picture[window.slices], SIZE)[None])
            alone = decode_objects(network, embedding, moved.scale(window.size, (SIZE, SIZE)))
            torch.testing.assert_close(one.logits, alone.logits[0], rtol=0, atol=2e-4)
            torch.testing.assert_close(one.iou, alone.iou[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(one.low_res, alone.low_res[0], rtol=0, atol=2e-4)

    def test_a_window_is_encoded_once_and_its_batch_is_bounded(self) -> None:
        stand_in = BoxNetwork().eval()
        batches = []

        def encode(windows: list[Window]) -> object:
            batches.append(len(windows))
            return WindowEncoder(stand_in, IMAGE)(windows)  # type: ignore[arg-type]

        batch_prompts = Prompts.of([ObjectPrompt(box=(0, 0, 50, 50))] * 40)
        views = [View(Window(0, 0, 60, 60 + k), list(range(40))) for k in range(5)]
        assert len(list(predict_windows(stand_in, encode, views, batch_prompts, batch_size=2))) == 200  # type: ignore[arg-type]
        assert batches == [2, 2, 1]

    def test_masks_and_three_predictions_pass_through(self, network: LMSFESAM) -> None:
        batch_prompts = Prompts.of([ObjectPrompt(box=(10, 20, 90, 80))] * 2)
        views = [View(WHOLE, [0, 1])]
        encode = WindowEncoder(network, IMAGE)
        first = list(predict_windows(network, encode, views, batch_prompts, multimask_output=True))
        assert first[0].logits.shape == (3, SIZE, SIZE) and first[0].iou.shape == (3,)
        masks = torch.stack([first[0].low_res[1], first[1].low_res[2]])
        second = list(predict_windows(network, encode, views, replace(batch_prompts, masks=masks)))
        assert not torch.equal(second[0].logits, second[1].logits)


class TestZoom:
    @pytest.mark.parametrize(
        "sides",
        [
            (100, 80, 180, 140),
            (0, 0, 60, 40),
            (340, 260, 400, 300),
            (399, 299, 400, 300),  # the last pixel
            (0, 120, 1, 180),  # one pixel wide at the border
            (0, 0, 400, 300),
            (1, 1, 399, 299),
        ],
    )
    @pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
    def test_a_prediction_is_pasted_into_its_window(self, sides: tuple[int, ...], share: float) -> None:
        labels = zoomed(Zoom(share, min_side=1), [ObjectPrompt(box=sides)], BoxNetwork().eval())
        x0, y0, x1, y1 = sides
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[y0:y1, x0:x1] = True
        pixel = max(1, (x1 - x0) / share / 64) + max(1, (y1 - y0) / share / 64)
        wrong = (labels == 1) ^ expected
        assert wrong[max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3].sum() == wrong.sum()
        assert wrong.sum() <= 2 * pixel + 0.1 * expected.sum()

    def test_it_sees_more_detail_than_the_whole_image(self) -> None:
        stand_in = BoxNetwork().eval()
        zoomed(Zoom(0.5, min_side=1), [ObjectPrompt(box=(100, 100, 132, 132))], stand_in)
        assert stand_in.seen is not None
        picture = IMAGE.permute(1, 2, 0).numpy()[84:148, 84:148]
        torch.testing.assert_close(stand_in.seen[0], prepare(picture, 64), rtol=0, atol=1e-5)

    def test_no_window_is_enlarged_by_default(self) -> None:
        prompts = [ObjectPrompt(box=(100, 100, 110, 110)), ObjectPrompt(box=(0, 0, 100, 10))]
        assert windows_of(Zoom(0.5), prompts) == [Window(73, 73, 64, 64), Window(0, 0, 64, 200)]

    def test_a_click_far_from_its_box_stays_in_view(self) -> None:
        prompt = ObjectPrompt(box=(100, 100, 120, 120), points=[(200, 110), (5, 5)], labels=[1, 0])
        assert windows_of(Zoom(0.5, min_side=1), [prompt]) == [Window(90, 50, 40, 200)]

    def test_a_lone_click_is_predicted_in_the_image_and_then_in_a_window(self) -> None:
        stand_in = BoxNetwork().eval()
        labels = zoomed(Zoom(0.5, min_side=1, large=100), [ObjectPrompt(points=[(200, 150)])], stand_in)
        # The stand-in draws a disc of 6 of the network's 64 pixels, in the whole image and in the window.
        ys, xs = np.nonzero(labels)
        assert stand_in.encoded == 2
        assert abs(xs.mean() - 200) < 3 and abs(ys.mean() - 150) < 3
        assert np.ptp(xs) < 2 * 6 / 64 * WIDTH / 2

    def test_an_empty_first_mask_and_no_prompt_are_predicted_in_the_whole_image(self) -> None:
        stand_in = BoxNetwork().eval()
        prompts = [ObjectPrompt(points=[(200, 150)], labels=[0]), ObjectPrompt()]
        stand_in.radius = 400.0  # a click outside the object, and the whole image is outside
        assert windows_of(Zoom(large=100), prompts, stand_in) == [WHOLE] * 2

    def test_in_a_large_image_a_click_is_predicted_in_its_surroundings(self) -> None:
        stand_in = BoxNetwork().eval()
        stand_in.radius = 400.0
        click = ObjectPrompt(points=[(350, 20)], labels=[0])  # nothing is found, so that is all
        assert windows_of(Zoom(large=4), [click], stand_in) == [Window(0, 272, 128, 128)]
        far = ObjectPrompt(points=[(20, 20), (380, 280)], labels=[0, 0])
        assert windows_of(Zoom(large=4), [far], stand_in) == [WHOLE]

    def test_large_objects_are_predicted_in_the_whole_image(self) -> None:
        tenth = WIDTH // 10 * HEIGHT // 10 / (WIDTH * HEIGHT)
        large, small = ObjectPrompt(box=(100, 100, 140, 130)), ObjectPrompt(box=(100, 100, 139, 130))
        zoom = Zoom(0.5, below=tenth, large=100)
        assert windows_of(zoom, [large, small]) == [WHOLE, Window(83, 80, 64, 78)]
        assert windows_of(Zoom(0.5, below=tenth, large=4), [large])[0] == Window(83, 80, 64, 80)
        stand_in = BoxNetwork().eval()
        assert windows_of(zoom, [ObjectPrompt(points=[(200, 150)])], stand_in) == [WHOLE]
        assert stand_in.encoded == 1
        stand_in.radius = 2.0
        assert windows_of(zoom, [ObjectPrompt(points=[(200, 150)])], stand_in) != [WHOLE]

    def test_predictions_are_in_the_order_of_the_objects(self) -> None:
        boxes = [(300, 200, 340, 240), (10, 10, 50, 50), (300, 200, 340, 240), (200, 100, 240, 140)]
        labels = zoomed(Zoom(batch_size=3), [ObjectPrompt(box=sides) for sides in boxes], BoxNetwork().eval())
        assert labels[220, 320] == 1  # of two that are alike the first
        assert labels[30, 30] == 2
        assert labels[120, 220] == 4


def test_objects_in_one_window_share_it() -> None:
    one, two = Window(0, 0, 5, 5), Window(0, 1, 5, 5)
    assert group_by_window({0: one, 1: two, 2: one}) == [View(one, [0, 2]), View(two, [1])]


def test_extent_of_a_mask() -> None:
    logits = torch.full((64, 64), -1.0)
    assert mask_box(logits, full_window((300, 400))) is None
    logits[16:32, 48:64] = 1
    np.testing.assert_allclose(mask_box(logits, Window(10, 20, 128, 256)), [212, 42, 276, 74])
