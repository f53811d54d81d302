"""Carrying objects through a cine: where they are, which way they go, and when they are lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brightnet import BrightNetwork
from lmsfe_sam import LMSFESAM
from lmsfe_sam.predict.postprocessing import paint_objects
from lmsfe_sam.predict.tracking import (
    CARRIED,
    LOST,
    PROMPTED,
    TrackedObject,
    Tracking,
    contrast_of,
    move_logits,
    paths,
    track,
)
from lmsfe_sam.predict.zoom import Zoom
from lmsfe_sam.prompts.coordinates import Window
from lmsfe_sam.prompts.prompt import ObjectPrompt

SIZE = (64, 128)
WHOLE = Zoom(below=0.0)
SIDE = 16


class HoldingNetwork(BrightNetwork):
    """Segments the box it is given, whatever is in it, as a network that its mask prompt holds in place."""

    def _segment(
        self, image: torch.Tensor, box: torch.Tensor, clicks: list
    ) -> tuple[torch.Tensor, torch.Tensor]:
        middle, size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 1.1 / 2
        centres = torch.arange(self.image_size) + 0.5
        inside = ((centres[None] - middle[0]).abs() <= size[0]) & (
            (centres[:, None] - middle[1]).abs() <= size[1]
        )
        return torch.where(inside, 5.0, -5.0), torch.tensor(0.9)


def loop(lefts: list[int], top: int = 20) -> list[torch.Tensor]:
    """Frames with a bright square that begins at a column; outside of the picture it is cut or gone."""
    frames = []
    for left in lefts:
        picture = np.zeros((3, *SIZE), np.uint8)
        picture[:, top : top + SIDE, max(0, left) : max(0, left + SIDE)] = 255
        frames.append(torch.from_numpy(picture))
    return frames


def box(left: int, top: int = 20) -> ObjectPrompt:
    return ObjectPrompt((left, top, left + SIDE, top + SIDE))


def mask(tracked: TrackedObject) -> np.ndarray:
    parts = [] if tracked.prediction is None else [tracked.prediction.parts()]
    return paint_objects(parts, [1.0] * len(parts), SIZE) > 0


def test_forward_and_backward_from_a_prompted_frame() -> None:
    lefts = [10 + 4 * k for k in range(20)]
    frames = loop(lefts)
    network = BrightNetwork()
    found = track(network, frames.__getitem__, range(20), {7: [box(lefts[7])]}, Tracking(zoom=WHOLE))
    assert [found[k][0].state for k in range(20)] == [CARRIED] * 7 + [PROMPTED] + [CARRIED] * 12
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(mask(found[number][0]), frame[0].numpy() > 0)
    assert network.encoded == 1 + 3 + 2  # 12 and 7 frames, four at a time
    assert network.fed is not None


def test_a_small_object_is_followed_by_its_window() -> None:
    lefts = [4 + 5 * k for k in range(20)]
    frames = loop(lefts)
    zoom = Zoom(share=0.25, below=None, min_side=64)
    found = track(BrightNetwork(), frames.__getitem__, range(20), {0: [box(lefts[0])]}, Tracking(zoom=zoom))
    windows = {found[k][0].prediction.window for k in range(20)}  # type: ignore[union-attr]
    assert len(windows) > 3
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(mask(found[number][0]), frame[0].numpy() > 0)


def test_an_object_that_leaves_is_lost_for_good() -> None:
    lefts = [20 - 4 * k for k in range(12)] + [20]
    found = track(BrightNetwork(), loop(lefts).__getitem__, range(13), {0: [box(20)]}, Tracking(zoom=WHOLE))
    states = [found[k][0].state for k in range(13)]
    assert states[:7] == [PROMPTED] + [CARRIED] * 6
    assert states[9:] == [LOST] * 4
    assert np.isnan(found[12][0].iou)


@pytest.mark.parametrize(("share", "kept"), [(0.3, 3), (0.0, 12)])
def test_tissue_that_is_like_its_surroundings_is_no_more_the_object(share: float, kept: int) -> None:
    frames = loop([20] * 12)
    for frame in frames[3:]:  # the object has gone, and what is there is a little brighter than the rest
        frame[:] = 140
        frame[:, 20:36, 20:36] = 145
        frame += torch.randint(0, 20, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    settings = Tracking(min_iou=0.0, min_overlap=0.0, min_contrast=share, zoom=WHOLE)
    found = track(HoldingNetwork(), frames.__getitem__, range(12), {0: [box(20)]}, settings)
    assert [found[k][0].state for k in range(12)] == [PROMPTED] + [CARRIED] * (kept - 1) + [LOST] * (
        12 - kept
    )


def test_contrast_by_hand() -> None:
    noise = torch.randn((64, 64), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros((64, 64), dtype=torch.bool)
    mask[20:44, 20:44] = True
    dark = (noise - 2.0 * mask).expand(3, -1, -1)
    assert contrast_of(dark, mask) == pytest.approx(-2, abs=0.25)
    assert contrast_of(noise.expand(3, -1, -1), mask) == pytest.approx(0, abs=0.2)
    assert np.isnan(contrast_of(dark, mask & False))
    assert np.isnan(contrast_of(dark, mask | True))


def test_a_jump_is_lost_by_the_overlap() -> None:
    frames = loop([20, 20, 32, 32])
    kept = track(
        BrightNetwork(), frames.__getitem__, range(4), {0: [box(20)]}, Tracking(0.5, 0.0, zoom=WHOLE)
    )
    lost = track(
        BrightNetwork(), frames.__getitem__, range(4), {0: [box(20)]}, Tracking(0.5, 0.5, zoom=WHOLE)
    )
    assert [kept[k][0].state for k in range(4)] == [PROMPTED, CARRIED, CARRIED, CARRIED]
    assert [lost[k][0].state for k in range(4)] == [PROMPTED, CARRIED, LOST, LOST]


def test_without_prompts_each_frame_stands_for_itself() -> None:
    lefts = [10, 90, 40]
    found = track(BrightNetwork(), loop(lefts).__getitem__, [0, 2], {}, Tracking(zoom=WHOLE))
    assert sorted(found) == [0, 2]
    np.testing.assert_array_equal(mask(found[2][0]), loop(lefts)[2][0].numpy() > 0)


def test_an_object_that_a_later_frame_adds() -> None:
    frames = loop([10] * 5)
    for frame in frames:
        frame[:, 40:56, 90:106] = 255
    prompts = {0: [box(10)], 4: [box(10), box(90, 40)]}
    found = track(BrightNetwork(), frames.__getitem__, range(5), prompts, Tracking(zoom=WHOLE))
    assert [len(found[k]) for k in range(5)] == [2] * 5
    assert [found[k][1].state for k in range(5)] == [LOST, LOST, LOST, CARRIED, PROMPTED]


def test_frames_belong_to_the_nearest_prompt() -> None:
    assert list(paths(range(10), [2, 7])) == [
        (2, [3, 4]), (2, [1, 0]), (7, [8, 9]), (7, [6, 5])
    ]  # fmt: skip
    assert list(paths([4, 5, 6], [5])) == [(5, [6]), (5, [4])]


def test_logits_move_from_window_to_window() -> None:
    logits = torch.full((8, 8), -5.0)
    logits[2:4, 2:4] = 5
    old = Window(0, 0, 64, 64)
    assert move_logits(logits, old, old) is logits
    moved = move_logits(logits, old, Window(8, 16, 64, 64))
    np.testing.assert_array_equal((moved > 0).numpy(), np.roll(logits > 0, (-1, -2), (0, 1)))
    assert moved[-1, -1] == pytest.approx(-10)


def test_the_network_itself_takes_what_is_carried() -> None:
    torch.manual_seed(0)
    network = LMSFESAM(preset="vit_t").eval()
    frames = loop([20, 24, 28])
    settings = Tracking(min_iou=0.0, min_overlap=0.0)
    found = track(network, frames.__getitem__, range(3), {0: [box(20)]}, settings)
    assert sorted(found) == [0, 1, 2]
