"""Check a packaged bundle as the model zoo will, on a copy, in a process that knows no other copy of it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.zoo import checks
from lmsfe_sam.zoo.folder import METADATA_FILE, NAME, PACKAGE

TRIED = ("monai", "torch", "numpy", "onnx", "onnxruntime")
"""Packages whose versions stand under the table."""


class Result(NamedTuple):
    """What became of one check.

    Attributes:
        name: what is checked.
        state: "passed", "failed" or "skipped".
        detail: what was found, or why it failed.
    """

    name: str
    state: str
    detail: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of the checks; the exit code is 1 if one failed."""
    plain_errors()
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.zoo.verify", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="what lmsfe_sam.package wrote")
    schema = parser.add_mutually_exclusive_group()
    schema.add_argument("--schema", type=Path, help="the file of MONAI's metadata schema")
    schema.add_argument("--online", action="store_true", help="let MONAI download the schema")
    given = parser.parse_args(arguments)
    results = verify(given.folder, checks.ONLINE if given.online else given.schema)
    print(table(results))
    if any(result.state == "failed" for result in results):
        sys.exit(1)


def verify(folder: Path, schema: Path | str | None = None) -> list[Result]:
    """Make every check of `lmsfe_sam.zoo.checks` on a copy of a packaged folder, in a fresh process.

    Args:
        folder: what `lmsfe_sam.package` wrote; it is not changed.
        schema: the file of MONAI's metadata schema, `checks.ONLINE`, or None: its check is skipped.

    Raises:
        InputError: no packaged bundle, no such schema, or the process ended early.
    """
    check_packaged(folder)
    if schema not in (None, checks.ONLINE) and not Path(schema or "").is_file():
        raise InputError(f"schema '{schema}' does not exist: name a file with --schema, or use --online.")
    located = schema if schema in (None, checks.ONLINE) else Path(schema or "").resolve()
    with tempfile.TemporaryDirectory(prefix="lmsfe_sam_verify_") as scratch:
        copy, report = Path(scratch) / "models" / NAME, Path(scratch) / "report.json"
        shutil.copytree(folder, copy)
        start = Path(scratch) / "start"
        start.mkdir()
        process = subprocess.run(
            [sys.executable, "-P", checks.__file__, str(copy), str(located or ""), str(report)],
            cwd=start,
            env=_environment(),
            stdout=sys.stderr,
            check=False,
        )
        if not report.is_file():
            raise InputError(
                f"the checks of '{folder}' ended early, with exit code {process.returncode}: see above."
            )
        return [Result(*entry) for entry in json.loads(report.read_text())]


def check_packaged(folder: Path) -> None:
    """Refuse what is no packaged bundle.

    Raises:
        InputError: metadata or the package is not in it.
    """
    for part in (METADATA_FILE, f"{PACKAGE}/__init__.py"):
        if not (folder / part).is_file():
            raise InputError(
                f"'{folder}' has no {part}: write a folder with python -m lmsfe_sam.package --output DIR "
                "and name it."
            )


def table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown, with counts and the versions that they hold for."""
    rows = [f"| {name} | {state} | {detail.replace('|', '/')} |" for name, state, detail in results]
    states = ("passed", "failed", "skipped")
    numbers = [(sum(result.state == state for result in results), state) for state in states]
    counts = ", ".join(f"{number} {state}" for number, state in numbers if number)
    versions = [f"Python {platform.python_version()}", *map(_version, TRIED)]
    return "\n".join(
        [
            "| check | result | detail |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"{counts}; with {', '.join(versions)}.",
        ]
    )


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {name}"


def _environment() -> dict[str, str]:
    """This process's variables without those that lead Python to other modules."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


if __name__ == "__main__":
    main()
