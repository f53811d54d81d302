"""The packaged folder: what is in it, what its configs say, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lmsfe_sam import files, package
from lmsfe_sam.errors import InputError
from lmsfe_sam.zoo import folder
from lmsfe_sam.zoo.checks import LARGEST, METADATA, OPTIONAL, imported_modules
from lmsfe_sam.zoo.configs import BUNDLE_ROOT, portable
from lmsfe_sam.zoo.folder import Options, write_bundle

PACKAGE = Path(package.__file__).parent


def make_checkpoint(folder: Path) -> Path:
    """A file that stands for weights: packaging copies them as they are."""
    path = folder / "mine.pt"
    path.write_bytes(b"weights")
    network = {"preset": "vit_b", "image_size": 128, "local_encoder": True, "mhpm": False}
    path.with_suffix(".json").write_text(json.dumps({**network, "adapters": True, "balancing_adapter": True}))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    return make_checkpoint(tmp_path / "weights")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packaged")
    return write_bundle(Options(place / "bundle", checkpoint=make_checkpoint(place)))


@pytest.fixture
def small_bundle(bundle_root: Path, tmp_path: Path, checkpoint: Path) -> Path:
    """A bundle whose files can be broken."""
    copy = tmp_path / "small"
    for part in ("configs", "docs"):
        shutil.copytree(bundle_root / part, copy / part)
    shutil.copy(bundle_root / "LICENSE", copy)
    (copy / "models").mkdir()
    shutil.copy(checkpoint, copy / "models" / "model.pt")
    shutil.copy(checkpoint.with_suffix(".json"), copy / "models" / "model.json")
    return copy


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def names(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_the_folder_holds_the_bundle_the_weights_and_the_package(written: Path, bundle_root: Path) -> None:
    found = names(written)
    own = {f"{part}/{name}" for part in ("configs", "docs") for name in names(bundle_root / part)}
    assert own | {"LICENSE", "models/model.pt", "models/model.json"} == {
        name for name in found if not name.startswith("lmsfe_sam/")
    }
    tracked = {name for name in names(PACKAGE) if "__pycache__" not in name and not name.startswith("label/")}
    assert {f"lmsfe_sam/{name}" for name in tracked} == found - own - {
        "LICENSE",
        "models/model.pt",
        "models/model.json",
    }
    assert {
        "lmsfe_sam/py.typed",
        "lmsfe_sam/evaluation/report/report.html",
        "lmsfe_sam/evaluation/report/report.css",
    } <= found
    assert (written / "models" / "model.pt").read_bytes() == b"weights"
    for name in tracked:
        assert (written / "lmsfe_sam" / name).read_bytes() == (PACKAGE / name).read_bytes()
    assert not list(written.parent.glob(".*")), "scratch folders are left"


def test_what_the_packaged_code_imports_is_inside_or_in_the_metadata(written: Path) -> None:
    code = sorted((written / "lmsfe_sam").rglob("*.py"))
    for file in code:
        for name in re.findall(r"^\s*from (lmsfe_sam(?:\.\w+)*) import", file.read_text(), re.MULTILINE):
            place = written.joinpath(*name.split("."))
            assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), (file, name)
    modules = imported_modules(code)
    assert {"torch", "monai", "segment_anything", "timm"} <= modules
    assert not modules & {"monailabel", "fastapi", "onnx", "onnxruntime", "pytest"}


def test_packages_that_an_installation_always_has_are_not_optional() -> None:
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]
    always = {re.split(r"[^\w-]", name)[0].lower().replace("-", "_") for name in project["dependencies"]}
    assert not always & OPTIONAL


def test_every_module_that_a_config_names_is_inside(written: Path) -> None:
    for config in (written / "configs").glob("*.json"):
        for name in re.findall(r"lmsfe_sam(?:\.[a-z_]+)*\.[a-z_]+(?=[.\"(])", config.read_text()):
            parts = name.split(".")
            place = written.joinpath(*parts)
            assert (
                place.with_suffix(".py").is_file()
                or (place / "__init__.py").is_file()
                or place.parent.with_suffix(".py").is_file()
            ), (config.name, name)


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import os\ndef f():\n    from skimage.measure import label\n    import onnx"
    )
    (tmp_path / "b.py").write_text("import lmsfe_sam.files\nfrom . import a\nimport torch.nn as nn")
    (tmp_path / "c.css").write_text("import flask")
    assert imported_modules(tmp_path.iterdir()) == {"skimage", "torch"}


def test_the_metadata_is_complete_and_of_the_packaged_network(written: Path) -> None:
    metadata = read(written / "configs" / "metadata.json")
    assert set(METADATA) <= set(metadata)
    data = metadata["network_data_format"]
    assert data["inputs"]["image"]["spatial_shape"] == data["outputs"]["pred"]["spatial_shape"] == [128, 128]
    assert metadata["eval_metrics"] == {}, "these are the scores of other weights"


def test_the_training_config_builds_the_packaged_network(written: Path) -> None:
    config = read(written / "configs" / "train.json")
    assert (config["preset"], config["image_size"], config["mhpm"]) == ("vit_b", 128, False)


@pytest.mark.parametrize("name", ["train.json", "evaluate.json", "inference.json", "multi_gpu_train.json"])
def test_no_config_touches_the_package_before_it_can_be_found(
    written: Path, bundle_root: Path, name: str
) -> None:
    before, after = read(bundle_root / "configs" / name), read(written / "configs" / name)
    assert not {"initialize", "+initialize"} & set(after)
    if "initialize" in before:
        assert after["run"] == ["@prepare", *before["run"]]
        assert [step for step in after["prepare"] if "find_spec" not in step] == before["initialize"][1:]
        assert "required_packages_version" in after["prepare"][0] and "'torch'" in after["prepare"][0]
    elif "+initialize" in before:
        assert after["+prepare"] == before["+initialize"]
    if "bundle_root" in before:
        assert after["bundle_root"] == BUNDLE_ROOT
    if "imports" in before:
        assert after["imports"] == ["$from pathlib import Path", *before["imports"]]


def test_a_config_that_was_packaged_before_stays_as_it_is(written: Path) -> None:
    config = read(written / "configs" / "train.json")
    assert portable(config, ["torch"]) == config


def test_the_sentence_about_a_missing_module(written: Path) -> None:
    step = read(written / "configs" / "inference.json")["prepare"][0]
    with pytest.raises(SystemExit, match=r"^error: the Python module torch is missing"):
        eval(step.removeprefix("$"), {"sys": sys, "find_spec": lambda name: name != "torch" or None})


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(tmp_path: Path, checkpoint: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    write_bundle(Options(output, checkpoint=checkpoint))
    before = names(output)
    with pytest.raises(InputError, match="is there already"):
        write_bundle(Options(output, checkpoint=checkpoint))
    assert names(output) == before
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is there already"):
        write_bundle(Options(link, checkpoint=checkpoint))


def test_a_place_that_cannot_be_written_to(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        write_bundle(Options(tmp_path / "file" / "out", checkpoint=checkpoint))


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.shutil, "copyfile", full)
    with pytest.raises(InputError, match="No space left"):
        write_bundle(Options(tmp_path / "new" / "out", checkpoint=checkpoint))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'nowhere\.pt' does not exist"):
        write_bundle(Options(tmp_path / "out", checkpoint=Path("nowhere.pt")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", folder.REQUIRED)
def test_an_incomplete_bundle(small_bundle: Path, tmp_path: Path, name: str) -> None:
    (small_bundle / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}"):
        write_bundle(Options(tmp_path / "out", bundle=small_bundle))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "9.9"}, "is of version 9.9"),
        ({"changelog": {}}, "with an entry in changelog"),
        ({"task": None}, "lacks task"),
    ],
)
def test_metadata_that_does_not_agree(
    small_bundle: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = small_bundle / "configs" / "metadata.json"
    content = {key: value for key, value in {**read(path), **change}.items() if value is not None}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        write_bundle(Options(tmp_path / "out", bundle=small_bundle))


def test_a_broken_config(small_bundle: Path, tmp_path: Path) -> None:
    (small_bundle / "configs" / "paper.json").write_text("{")
    with pytest.raises(InputError, match=r"paper\.json' is not JSON"):
        write_bundle(Options(tmp_path / "out", bundle=small_bundle))


def test_weights_that_are_too_large_for_the_zoo(tmp_path: Path, checkpoint: Path) -> None:
    with checkpoint.open("r+b") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(InputError, match=r"has 25\.0 MB and the model zoo takes 25 MB"):
        write_bundle(Options(tmp_path / "a", checkpoint=checkpoint))
    address = "https://example.org/model.pt"
    linked = write_bundle(Options(tmp_path / "b", checkpoint=checkpoint, model_url=address))
    assert not (linked / "models" / "model.pt").exists() and (linked / "models" / "model.json").is_file()
    lines = (linked / "large_files.yml").read_text().splitlines()
    assert lines[:3] == ["large_files:", '- path: "models/model.pt"', f'  url: "{address}"']
    assert re.fullmatch(r'  hash_val: "[0-9a-f]{64}"', lines[3]) and lines[4] == '  hash_type: "sha256"'
    whole = write_bundle(Options(tmp_path / "c", checkpoint=checkpoint, any_size=True))
    assert (whole / "models" / "model.pt").stat().st_size == LARGEST + 1
    assert not (whole / "large_files.yml").exists()


def test_the_bundles_own_weights_fit(bundle_root: Path) -> None:
    sizes = [path.stat().st_size for path in (bundle_root / "models").iterdir()]
    assert max(sizes) <= LARGEST


def test_a_package_without_a_bundle_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "lmsfe_sam" / "files.py"))
    with pytest.raises(InputError, match="name its folder with --bundle"):
        write_bundle(Options(tmp_path / "out"))


def test_the_command_says_what_it_wrote(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package.main(["--output", str(tmp_path / "out"), "--checkpoint", str(checkpoint)])
    line = capsys.readouterr().out
    assert re.fullmatch(rf"{tmp_path}/out: \d+ files, 1\.\d MB, the largest 0\.\d MB\.\n", line)
