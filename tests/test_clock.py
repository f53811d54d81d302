"""A clock that is set back, as by NTP or by a summer that ends, takes nothing from anybody."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("monailabel", reason="MONAI Label is not installed")

from lmsfe_sam.label.datastore import records
from lmsfe_sam.label.scoring import LeastSure


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(records, "time", made)
    return made


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_a_session_outlives_the_change_and_ends_at_its_time(tmp_path: Path, image: str, clock: Clock) -> None:
    sessions = records.SafeSessions(str(tmp_path / "sessions"), expiry=600)
    number, _ = sessions.add_session(image)
    clock.now -= 3600
    assert sessions.remove_expired() == 0 and sessions.get_session(number, update_ts=False) is not None
    clock.now += 599
    assert sessions.remove_expired() == 0
    clock.now += 10
    assert sessions.remove_expired() == 1 and sessions.get_session(number) is None


def test_an_image_that_will_have_been_served_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    later = {"strategy": {"least": {"ts": time.time() + 3600}}}
    lately = {"strategy": {"least": {"ts": time.time() - 1}}}
    infos: dict[str, dict[str, Any]] = {"later": {**later, "score": 0.9}, "lately": {**lately, "score": 1.0}}
    datastore: Any = SimpleNamespace(
        get_unlabeled_images=lambda *_: [*infos], get_image_info=lambda name: infos[name]
    )

    class Method:
        name = "entropy"

        def __call__(self, *_: Any) -> None:
            pass

        def score(self, info: dict[str, Any]) -> float:
            return info["score"]

    monkeypatch.setattr("lmsfe_sam.label.scoring.MEASURES", {"entropy": (None, "")})
    method: Any = Method()
    chosen = LeastSure(method)({"strategy": "least"}, datastore)
    assert chosen is not None and chosen["id"] == "later"
