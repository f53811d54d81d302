"""Test an installation: segment phantoms with the shipped weights and compare with expected results.

    python -m lmsfe_sam.selftest

needs no data and takes some seconds. It prints what is wrong in plain sentences; the exit code is 1 then.
``--update`` stores new expected results in ``models/selftest.json`` after the weights have been changed.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.files import atomic_write, named_path, own_bundle, remove_leftovers_of
from lmsfe_sam.model.checkpoints import read_sidecar, seal_weights
from lmsfe_sam.model.weights.checks import HASH, sha256
from lmsfe_sam.selftest.checking import EXPECTED, WEIGHTS, compare, find_problems, segment_phantoms
from lmsfe_sam.selftest.installation import other_versions, tested_versions


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. The exit code is 1 if something is wrong."""
    plain_errors()
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.selftest", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--bundle", type=named_path, help="the bundle's folder (default: this installation)")
    parser.add_argument("--device", default="cpu", help="where the network runs (default: %(default)s)")
    parser.add_argument("--update", action="store_true", help="store these results as the expected ones")
    options = parser.parse_args(arguments)
    if options.bundle and not options.bundle.is_dir():
        raise InputError(f"bundle '{options.bundle}' is no folder: give one that holds configs and models.")
    bundle = options.bundle or own_bundle()
    if options.update:
        print(f"Expected results are stored in {update(bundle)}.")
        return
    print(f"lmsfe_sam in {Path(__file__).parents[1]}, bundle {bundle}, Python {platform.python_version()}")
    problems = find_problems(bundle, options.device)
    for problem in problems:
        print(f"Problem: {problem}")
    if problems:
        sys.exit(1)
    others = other_versions(tested_versions(bundle))
    if others:
        print(f"Other versions than the tested ones, with the expected results: {others}.")
    print("The installation works.")


def update(bundle: Path) -> Path:
    """Store the results of this installation as the expected ones.

    Raises:
        InputError: the weights cannot be used or find no lesion, which changes nothing, or the file cannot be
            written.
    """
    weights = bundle / WEIGHTS
    description = read_sidecar(weights)
    if not description:
        raise InputError(f"'{weights}' or its description is missing: put both there first.")
    description.pop(HASH, None)
    remove_leftovers_of(weights.with_suffix(".json"), bundle / EXPECTED)
    with tempfile.TemporaryDirectory() as folder:  # a copy has no hash yet, so that it may be other weights
        copy = Path(shutil.copyfile(weights, Path(folder) / weights.name))
        copy.with_suffix(".json").write_text(json.dumps(description), encoding="utf-8")
        cases = segment_phantoms(copy)
    problems = compare(cases, cases)
    if problems:
        raise InputError(f"'{weights}' is not taken, and nothing was changed: {problems[0]}")
    seal_weights(weights)
    content = {
        "weights_sha256": sha256(weights),
        "description": description,
        "cases": [case._asdict() for case in cases],
    }
    with atomic_write(bundle / EXPECTED) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return bundle / EXPECTED


if __name__ == "__main__":
    main()
