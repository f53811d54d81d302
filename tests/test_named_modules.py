"""What documents and configs name of the package is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "custom"
PACKAGE = SOURCE / "lmsfe_sam"
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "bundle/docs/*.md", "bundle/configs/**/*.json", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # tells of what was
)


def source_of(name: str) -> Path | None:
    """The file of a module or package, or None."""
    place = SOURCE / name.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def exists(dotted: str) -> bool:
    """Whether ``lmsfe_sam.a.b`` is a module, or the longest module in it has the next name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        file = source_of(".".join(parts[:length]))
        if file is not None:
            return length == len(parts) or re.search(rf"\b{parts[length]}\b", file.read_text()) is not None
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_modules_and_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = {name for name in re.findall(r"\blmsfe_sam(?:\.\w+)+", text) if not exists(name)}
    rooms = "|".join(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file())
    files = re.findall(rf"(?<![\w/.])(?:custom/lmsfe_sam/)?((?:{rooms})/[\w/]+\.py)", text)
    missing |= {name for name in files if not (PACKAGE / name).is_file()}
    assert not missing
