"""The first example of docs/baselines.md, a network of one's own as a row, runs as it is printed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import run as run_bundle

from lmsfe_sam import tables
from lmsfe_sam.data.phantoms import __main__ as phantoms

ROOT = Path(__file__).resolve().parents[1]


def blocks() -> tuple[str, str, list[str]]:
    """The example's module, its config and its commands."""
    text = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    found = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    (python, module), (kind, config), (_, commands) = found[:3]
    assert (python, kind) == ("python", "json")
    return module, config, commands.splitlines()


@pytest.fixture
def _forgotten(restored_globals: None) -> Iterator[None]:
    yield
    sys.modules.pop("my_net", None)


def options_of(command: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+) (\S+)", command))


@pytest.mark.usefixtures("_forgotten")
def test_the_example(
    tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, config, commands = blocks()
    assert len(module.splitlines()) + len(config.splitlines()) + len(commands) < 40
    (tmp_path / "my_net.py").write_text(module)
    (tmp_path / "my_net.json").write_text(config)
    phantoms.main(["--output", str(tmp_path / "data"), "--count", "6", "--seed", "3"])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(bundle_root)
    training, evaluating, printing = commands
    small: dict[str, Any] = {"device": "cpu", "threads": 1}
    places = {"DIR": tmp_path / "data", "runs": tmp_path / "runs"}

    def call(run_id: str, command: str, **more: Any) -> None:
        options = options_of(command)
        files = re.findall(r"'([^']+\.json)'", options.pop("config_file"))
        own = [str(tmp_path / name) if name == "my_net.json" else name for name in files]
        for key, value in options.items():
            first, _, rest = value.partition("/")
            options[key] = str(places[first] / rest) if first in places else value
        run_bundle(run_id=run_id, config_file=own, **options, **small, **more)

    call("training", training, epochs=1, image_size=32, batch_size=2)
    described = json.loads((tmp_path / "runs" / "my_net" / "model.json").read_text())
    assert described["network"] == "my_net.MyNet" and described["prompt_form"] == "box"
    call("evaluating", evaluating, bootstrap=10, gallery=0)
    capsys.readouterr()
    program, _, named = printing.partition(" --runs ")
    assert program == "python -m lmsfe_sam.tables"
    tables.main(["--runs", *(str(tmp_path / path) for path in named.split())])
    assert "| MyNet, box as a channel | tight box | 32 | 1 |" in capsys.readouterr().out
