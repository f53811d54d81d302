"""An empty name, such as an unset variable of a shell, is refused and not taken for the current folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from lmsfe_sam.errors import InputError

COMMANDS = {
    "data.audit": [["", "--output", "a.html"], [".", "--output", ""], [".", "--datalist", ""]],
    "data.phantoms.__main__": [["--output", ""], ["--output", " "]],
    "figures": [["--runs", "run", "--output", ""]],
    "selftest.__main__": [["--bundle", ""]],
    "tables": [["--runs", "run", "--output", ""]],
    "training.soup": [["a.pt", "b.pt", "--output", ""], ["a.pt", "", "--output", "c.pt"]],
}


@pytest.mark.parametrize(
    ("module", "words"), [(name, words) for name in COMMANDS for words in COMMANDS[name]]
)
def test_an_empty_name_is_no_name(
    module: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        import_module(f"lmsfe_sam.{module}").main(words)
    assert "is no name: give a file or folder" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["input", "output", "prompts"])
def test_an_empty_name_is_no_batch(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    from lmsfe_sam.batch.job import BatchOptions, run_batch

    monkeypatch.chdir(tmp_path)
    names = {"input": "images", "output": "masks", "prompts": "prompts.json", key: ""}
    with pytest.raises(InputError, match=f"{key} '' is no name: give a file, folder or URL"):
        run_batch(BatchOptions(**names))
    assert not any(tmp_path.iterdir())
