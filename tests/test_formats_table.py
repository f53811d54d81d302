"""The tables of ``docs/formats.md``: each row names tests, and these exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
TEXT = (TESTS.parent / "docs" / "formats.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(test_\w+\.py)::([\w:]+)`")


def rows() -> list[str]:
    """The rows of the tables that have a column of tests, which is the last."""
    found, inside = [], False
    for line in TEXT.splitlines():
        if not line.startswith("|"):
            inside = False
        elif re.search(r"\| test \|$", line):
            inside = True
        elif inside and not line.startswith("| ---"):
            found.append(line)
    return found


def names_in(file: str) -> set[str]:
    names = set()
    for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return names


def test_there_are_tables_of_files_masks_and_layouts() -> None:
    assert len(rows()) > 35


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2:40].replace("`", ""))
def test_each_row_names_a_test(row: str) -> None:
    assert NAMED.search(row.rsplit(" | ", 1)[-1]), row


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED.findall(TEXT))))
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    assert test in names_in(file)
