"""Check a packaged bundle as the model zoo does, on a copy of it."""

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

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.files import named_path
from lmsfe_sam.zoo import checks, runtime_checks
from lmsfe_sam.zoo.checks import PACKAGE, Result
from lmsfe_sam.zoo.folder import METADATA_FILE, NAME

REPORTED = ("monai", "torch", "numpy", "onnx", "onnxruntime")
"""Packages whose versions are printed below the table."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of the checks. The exit code is 1 if one failed."""
    plain_errors()
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.zoo.verify", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("folder", type=named_path, help="what lmsfe_sam.package wrote")
    schema = parser.add_mutually_exclusive_group()
    schema.add_argument("--schema", type=named_path, help="the file of MONAI's metadata schema")
    schema.add_argument("--online", action="store_true", help="let MONAI download the schema")
    given = parser.parse_args(arguments)
    results = verify(given.folder, checks.ONLINE if given.online else given.schema)
    print(table(results))
    if any(result.state == "failed" for result in results):
        sys.exit(1)


def verify(folder: Path, schema: Path | str | None = None) -> list[Result]:
    """Check a copy of a packaged folder. The checks that run the bundle are made in a new process.

    Args:
        folder: what `lmsfe_sam.package` wrote; it is not changed.
        schema: the file of MONAI's metadata schema, `checks.ONLINE`, or None to skip its check.

    Raises:
        InputError: not a packaged bundle, no such schema, or the process ended early.
    """
    check_packaged(folder)
    if schema not in (None, checks.ONLINE) and not Path(schema or "").is_file():
        raise InputError(f"schema '{schema}' does not exist: name a file with --schema, or use --online.")
    with tempfile.TemporaryDirectory(prefix="lmsfe_sam_verify_") as scratch:
        copy, report = Path(scratch) / "models" / NAME, Path(scratch) / "report.json"
        shutil.copytree(folder, copy)
        results = checks.run(checks.CHECKS, copy, str(schema or ""))
        start = Path(scratch) / "start"
        start.mkdir()
        process = subprocess.run(
            [sys.executable, "-P", runtime_checks.__file__, str(copy), str(report)],
            cwd=start,
            env=_environment(),
            stdout=sys.stderr,
            check=False,
        )
        if not report.is_file():
            raise InputError(
                f"the checks of '{folder}' ended early, with exit code {process.returncode}: see above."
            )
        return results + [Result(*entry) for entry in json.loads(report.read_text())]


def check_packaged(folder: Path) -> None:
    """Refuse a folder that is not a packaged bundle.

    Raises:
        InputError: the metadata or the package is missing.
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
    versions = [f"Python {platform.python_version()}", *map(_version, REPORTED)]
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
    """Return the environment without PYTHONPATH and its like, which lead to other copies of the package."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


if __name__ == "__main__":
    main()
