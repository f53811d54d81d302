"""The self-test: the shipped weights pass, and what is wrong with an installation is said in a sentence."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lmsfe_sam.selftest import __main__ as command
from lmsfe_sam.selftest import checking as selftest
from lmsfe_sam.selftest.checking import Case, compare, find_problems


@pytest.fixture(scope="module")
def cases(bundle_root: Path) -> list[Case]:
    return selftest.segment_phantoms(bundle_root / "models" / "model.pt")


@pytest.fixture
def bundle(bundle_root: Path, tmp_path: Path) -> Path:
    for part in ("configs", "models"):
        shutil.copytree(bundle_root / part, tmp_path / part)
    return tmp_path


def expected(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "models" / "selftest.json").read_text())
    return content


def test_the_shipped_weights_pass(bundle_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([])
    assert capsys.readouterr().out.endswith("The installation works.\n")


def test_the_expected_results_are_those_of_the_weights(bundle_root: Path, cases: list[Case]) -> None:
    stored = [Case(**case) for case in expected(bundle_root)["cases"]]
    assert compare(cases, stored) == []
    assert all(case.dice > 0.8 for case in stored)


@pytest.mark.parametrize("value", ["x", None, [], {}, float("nan"), 10**400])
@pytest.mark.parametrize("key", ["dice", "predicted_iou", "mean_logit"])
def test_expected_figures_that_are_none_are_a_sentence(bundle: Path, key: str, value: Any) -> None:
    content = expected(bundle)
    content["cases"][0][key] = value
    (bundle / "models" / "selftest.json").write_text(json.dumps(content))
    (problem,) = find_problems(bundle)
    assert "selftest.json' is incomplete: run with --update" in problem


def test_a_package_without_a_name_is_a_sentence(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata["required_packages_version"] = {"": "1"}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (problem,) = find_problems(bundle)
    assert problem.startswith("packages are missing")


def test_damaged_weights(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bundle / "models" / "model.pt"
    content = model.read_bytes()
    model.write_bytes(content[: len(content) // 2])
    with pytest.raises(SystemExit) as caught:
        command.main(["--bundle", str(bundle)])
    assert caught.value.code == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Problem: ")]
    assert len(lines) == 1 and "model.pt' " in lines[0]
    changed = bytearray(content)
    changed[len(content) // 2] ^= 0xFF
    model.write_bytes(changed)
    assert any("model.pt' " in problem for problem in find_problems(bundle))
    model.unlink()
    assert any("model.pt' does not exist" in problem for problem in find_problems(bundle))


def test_other_weights_need_an_update(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = expected(bundle)
    (bundle / "models" / "selftest.json").write_text(json.dumps({**content, "weights_sha256": "0" * 64}))
    problems = find_problems(bundle)
    assert len(problems) == 1 and "or run with --update if you replaced it" in problems[0]
    command.main(["--bundle", str(bundle), "--update"])
    assert find_problems(bundle) == []
    assert expected(bundle)["weights_sha256"] == content["weights_sha256"]


def test_packages_that_are_missing_or_of_another_version(bundle: Path, cases: list[Case]) -> None:
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    packages = {**metadata["required_packages_version"], "no-such-package": "1.2"}
    path.write_text(json.dumps({**metadata, "required_packages_version": packages}))
    assert find_problems(bundle) == ["packages are missing: run pip install no-such-package==1.2."]

    path.write_text(json.dumps({**metadata, "pytorch_version": "2.0.0"}))
    assert find_problems(bundle) == [], "another version alone is not a problem"
    wrong = [{**case, "dice": case["dice"] - 0.1} for case in expected(bundle)["cases"]]
    content = {**expected(bundle), "cases": wrong}
    (bundle / "models" / "selftest.json").write_text(json.dumps(content))
    problems = find_problems(bundle)
    assert len(problems) == len(cases) + 1
    assert problems[0].startswith("dice of phantom 3 with a box is 0.98")
    assert "other versions than the tested ones" in problems[-1] and "instead of 2.0.0" in problems[-1]


def replaced(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_another_description_of_the_weights(bundle: Path) -> None:
    """With another ``position_norm`` the masks of these phantoms are much the same."""
    replaced(bundle / "models" / "model.json", position_norm="instance")
    (problem,) = find_problems(bundle)
    assert "model.json' is not what" in problem and "(position_norm)" in problem
    (bundle / "models" / "model.json").unlink()
    assert "or missing (preset, image_size" in find_problems(bundle)[0]


def test_update_does_not_bless_damaged_weights(bundle: Path) -> None:
    """The hash in the description stays, too: it says that the file is not the one that was trained."""
    models = bundle / "models"
    content = (models / "model.pt").read_bytes()
    before = {name: (models / name).read_bytes() for name in ("model.json", "selftest.json")}
    (models / "model.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        command.update(bundle)
    black = {name: torch.zeros_like(tensor) for name, tensor in torch.load(io.BytesIO(content)).items()}
    torch.save(black, models / "model.pt")
    with pytest.raises(ValueError, match="nothing was changed: all masks are empty"):
        command.update(bundle)
    assert before == {name: (models / name).read_bytes() for name in before}
    assert {path.name for path in models.iterdir()} == {"model.pt", *before}


def test_what_a_module_raises_is_a_sentence(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmsfe_sam.data.phantoms.rendering", None)
    (problem,) = find_problems(bundle)
    assert problem.startswith("no phantom could be segmented (ModuleNotFoundError: ")


def test_black_masks_and_nan(cases: list[Case]) -> None:
    black = [case._replace(dice=0.0) for case in cases]
    assert compare(black, cases) == [
        "all masks are empty or beside the lesion: weights, torch or device do not work."
    ]
    broken = [cases[0]._replace(mean_logit=float("nan")), *cases[1:]]
    assert "NaN" in compare(broken, cases)[0]
    assert "other cases than this version" in compare(cases, cases[1:])[0]


@pytest.mark.parametrize("text", ["{", "{}", '{"cases": [{}], "weights_sha256": ""}', "[]"])
def test_a_damaged_file_of_expected_results(bundle: Path, text: str) -> None:
    (bundle / "models" / "selftest.json").write_text(text)
    (problem,) = find_problems(bundle)
    assert "selftest.json' is" in problem


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metadata\.json' does not exist: name a complete bundle"):
        find_problems(tmp_path)


def test_a_device_that_is_not_there(bundle_root: Path) -> None:
    (problem,) = find_problems(bundle_root, device="cuda:99")
    assert problem.startswith("device is 'cuda:99'")
