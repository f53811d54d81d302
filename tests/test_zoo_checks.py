"""The checks of a packaged folder notice what is wrong with it; the long ones run in tests/cli."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lmsfe_sam
from lmsfe_sam.errors import InputError
from lmsfe_sam.zoo import checks, runtime_checks, verify
from lmsfe_sam.zoo.checks import LARGEST, Result, Skipped
from lmsfe_sam.zoo.folder import Options, write_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    (place / "weights.pt").write_bytes(b"weights")
    network = {"preset": "vit_t", "image_size": 256}
    (place / "weights.json").write_text(json.dumps(network))
    written = write_bundle(Options(place / "bundle", checkpoint=place / "weights.pt"))
    return written


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def change_metadata(bundle: Path, **values: Any) -> None:
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


QUICK = (
    checks.required_files,
    checks.no_other_files,
    checks.file_sizes,
    checks.version_and_changelog,
    checks.metadata_fields,
    checks.packages,
    checks.properties_of_apps,
)


@pytest.mark.parametrize("check", QUICK, ids=lambda check: check.__name__)
def test_a_whole_folder_passes(whole: Path, check: Callable[[Path, str], str]) -> None:
    assert check(whole, "")


@pytest.mark.parametrize("name", ["LICENSE", "models/model.pt", "docs/data_license.txt"])
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(AssertionError, match=f"missing: \\['{name}'\\]"):
        checks.required_files(bundle, "")


@pytest.mark.parametrize("name", ["eval/schema.json", "models/model.ts", "docs/.hidden", "lmsfe_sam/a.pyc"])
def test_a_stray_file(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("")
    with pytest.raises(AssertionError, match="stray"):
        checks.no_other_files(bundle, "")


def test_a_large_file_has_to_be_listed_and_a_listed_one_to_be_large(bundle: Path) -> None:
    model = bundle / "models" / "model.pt"
    with model.open("r+b") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(AssertionError, match=r"larger than 25 MB: \['models/model.pt'\]"):
        checks.file_sizes(bundle, "")
    entry = {"path": "models/model.pt", "url": "https://example.org/a.pt", "hash_type": "sha256"}
    listing = bundle / "large_files.yml"
    from lmsfe_sam.model.weights.checks import sha256

    listing.write_text(json.dumps({"large_files": [{**entry, "hash_val": sha256(model)}]}))
    assert "lists models/model.pt" in checks.file_sizes(bundle, "")
    assert checks.no_other_files(bundle, "")
    model.write_bytes(b"other")
    with pytest.raises(AssertionError, match="is another file"):
        checks.file_sizes(bundle, "")
    listing.write_text(json.dumps({"large_files": [{**entry, "hash_val": sha256(model)}]}))
    with pytest.raises(AssertionError, match=r"larger than 25 MB: \[\]"):
        checks.file_sizes(bundle, "")
    model.unlink()
    with pytest.raises(AssertionError, match=r"download models/model.pt from https://example.org/a.pt"):
        checks.required_files(bundle, "")


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [
        (checks.version_and_changelog, {"version": "3.0"}, "not in the changelog"),
        (checks.version_and_changelog, {"version": "3.0", "changelog": {"3.0": ""}}, "inside is of version"),
        (checks.metadata_fields, {"references": "one"}, "of the wrong type: .'references'"),
        (checks.metadata_fields, {"intended_use": ""}, "empty: .'intended_use'"),
        (checks.metadata_fields, {"optional_packages_version": {}}, "would replace"),
        (checks.metadata_fields, {"network_data_format": {"inputs": {}, "outputs": {}}}, None),
        (checks.packages, {"required_packages_version": {}}, "not listed: .*'scikit-image'"),
        (checks.properties_of_apps, {"supported_apps": {"vista": "1"}}, "vista"),
    ],
)
def test_wrong_metadata(
    bundle: Path, check: Callable[[Path, str], str], values: dict[str, Any], message: str | None
) -> None:
    change_metadata(bundle, **values)
    with pytest.raises((AssertionError, StopIteration), match=message):
        check(bundle, "")


def test_a_schema_that_was_not_named_is_reported_missing(whole: Path) -> None:
    pytest.importorskip("jsonschema")
    with pytest.raises(Skipped, match="--schema"):
        checks.metadata_schema(whole, "")


def test_another_copy_of_the_package_is_detected(whole: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(lmsfe_sam.__file__).parents[1])}
    program = "import sys, json; from lmsfe_sam.zoo import runtime_checks as r; r._check_origin("
    program += "__import__('pathlib').Path(sys.argv[1]), sys.modules['lmsfe_sam'])"
    command = [sys.executable, "-P", "-c", program, str(whole)]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "AssertionError: lmsfe_sam comes from" in other.stderr
    environment["PYTHONPATH"] = str(whole)
    own = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert own.returncode == 0, own.stderr


def test_a_check_that_fails_or_cannot_be_made_is_a_row(whole: Path) -> None:
    def broken(bundle: Path, schema: str) -> str:
        raise AssertionError("no\n  good")

    def not_here(bundle: Path, schema: str) -> str:
        raise Skipped("no GPU")

    assert checks.run([broken, not_here, checks.required_files], whole)[:2] == [
        Result("broken", "failed", "AssertionError: no good"),
        Result("not here", "skipped", "no GPU"),
    ]


def test_what_cannot_be_checked(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no configs/metadata\.json: write a folder with python -m"):
        verify.verify(tmp_path)
    with pytest.raises(InputError, match=r"schema '.*none\.json' does not exist"):
        verify.verify(whole, tmp_path / "none.json")


def test_checks_that_end_early(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(verify.runtime_checks, "__file__", str(broken))
    with pytest.raises(InputError, match="ended early, with exit code 3"):
        verify.verify(whole)


def test_one_failed_check_ends_the_command_with_1(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [Result("a", "passed", "x | y"), Result("b", "skipped", "z")]
    monkeypatch.setattr(verify, "verify", lambda folder, schema: results)
    verify.main([str(whole)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "| check | result | detail |",
        "| --- | --- | --- |",
        "| a | passed | x / y |",
        "| b | skipped | z |",
    ]
    assert lines[5].startswith("1 passed, 1 skipped; with Python 3")
    results.append(Result("c", "failed", "no"))
    with pytest.raises(SystemExit, match="1"):
        verify.main([str(whole)])
    assert "1 passed, 1 failed, 1 skipped" in capsys.readouterr().out


def test_the_documentation_has_the_table_of_these_checks() -> None:
    text = (Path(__file__).parents[1] / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = text.split("| check | result | detail |\n| --- | --- | --- |\n")[1].split("\n\n")[0].splitlines()
    names = [check.__name__.replace("_", " ") for check in (*checks.CHECKS, *runtime_checks.CHECKS)]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == names
    assert "failed" not in "".join(rows)
