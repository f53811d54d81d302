"""docs/results.md: its tables are what its own command prints from the results beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmsfe_sam import tables

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert "python -m lmsfe_sam.tables --runs docs/results/*" in page
    tables.main(["--runs", *map(str, sorted((DOCS / "results").iterdir()))])
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) > 20 and printed.strip() in page
