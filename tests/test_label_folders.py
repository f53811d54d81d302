"""The folder that a MONAI Label server serves from: never at the cost of what was trained in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmsfe_sam.errors import InputError
from lmsfe_sam.label.start import prepare_app


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "train.json").write_text("{}")
    (folder / "models" / "model.pt").write_bytes(b"first")
    return folder


def test_each_name_is_a_copy_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    app = tmp_path / "runs" / "app"
    prepare_app(app, bundle, ["auto", "auto_deepgrow"])
    assert "UltrasoundApp" in (app / "main.py").read_text()
    for name in ("auto", "auto_deepgrow"):
        assert (app / "model" / name / "models" / "model.pt").read_bytes() == b"first"
        assert (app / "model" / name / "configs" / "train.json").is_file()


def test_a_second_start_keeps_the_weights_that_were_trained(bundle: Path, tmp_path: Path) -> None:
    prepare_app(tmp_path / "app", bundle, ["auto"])
    served = tmp_path / "app" / "model" / "auto" / "models" / "model.pt"
    served.write_bytes(b"trained here")
    prepare_app(tmp_path / "app", bundle, ["auto"])
    assert served.read_bytes() == b"trained here"


def test_new_weights_of_the_bundle_put_the_trained_ones_aside(bundle: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    prepare_app(app, bundle, ["auto"])
    served = app / "model" / "auto" / "models" / "model.pt"
    served.write_bytes(b"trained here")
    (bundle / "models" / "model.pt").write_bytes(b"second")
    prepare_app(app, bundle, ["auto"])
    assert served.read_bytes() == b"second"
    (kept,) = (app / "before").glob("auto-*/models/model.pt")
    assert kept.read_bytes() == b"trained here"


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_that_is_no_folders(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="--names"):
        prepare_app(tmp_path / "app", bundle, [name])


def test_a_bundle_without_weights(bundle: Path, tmp_path: Path) -> None:
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match="--bundle"):
        prepare_app(tmp_path / "app", bundle, ["auto"])
