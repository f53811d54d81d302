"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lmsfe_sam import LMSFESAM, ImageEmbedding
from network_cases import build, images
from tiny import tiny_presets

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    """The bundle's folder, which the command line runs from."""
    return ROOT / "bundle"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real ultrasound images that lie beside the checkout on some machines."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real images are not at {folder}")
    return folder


@pytest.fixture(scope="module")
def small_presets() -> Iterator[None]:
    """Have the small presets beside the real ones, in all tests of a file."""
    with tiny_presets():
        yield


@pytest.fixture(scope="module", params=["tiny_b", "tiny_t"])
def encoded(request: pytest.FixtureRequest, small_presets: None) -> tuple[LMSFESAM, ImageEmbedding]:
    """A small network of each kind, and its embedding of three images."""
    model = build(request.param)
    with torch.no_grad():
        return model, model.encode(images(3))


@pytest.fixture
def no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute gradients in tests of gradients alone."""
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


@pytest.fixture
def restored_globals() -> Iterator[None]:
    """Restore what a command of the bundle changes in this process: error hook, metadata and determinism."""
    import monai  # heavy, and of no use to tests of the core

    hook = sys.excepthook
    yield
    sys.excepthook = hook
    monai.data.set_track_meta(True)
    monai.utils.set_determinism(None)
