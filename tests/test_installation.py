"""Packages that are missing or broken: what is said, by the package itself and by the self-test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmsfe_sam.selftest import installation

BLOCKER = """
import importlib.abc, importlib.metadata, sys
missing, broken = {missing!r}, {broken!r}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in missing:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        if name in broken:
            raise ImportError(f"libfoo.so.3: cannot open shared object file", name=name)

def version(name, original=importlib.metadata.version):
    if name in missing:
        raise importlib.metadata.PackageNotFoundError(name)
    return "0.1" if name in broken else original(name)

sys.meta_path.insert(0, Finder())
importlib.metadata.version = version
"""


def run(folder: Path, module: str, missing: tuple[str, ...] = (), broken: tuple[str, ...] = ()) -> list[str]:
    """Run a command where packages are missing or broken; return what it prints."""
    (folder / "sitecustomize.py").write_text(BLOCKER.format(missing=missing, broken=broken))
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    return (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("module", ["lmsfe_sam.selftest", "lmsfe_sam.package"])
def test_every_missing_package_is_named_in_one_sentence(
    tmp_path: Path, bundle_root: Path, module: str
) -> None:
    tested = installation.tested_versions(bundle_root)
    (line,) = run(tmp_path, module, missing=("torch", "numpy", "pydantic"))
    wanted = [f"{name}=={tested[name]}" for name in ("torch", "numpy", "pydantic")]
    assert line == f"error: packages are missing: run pip install {' '.join(wanted)}."


def test_a_package_that_cannot_be_imported(tmp_path: Path) -> None:
    (line,) = run(tmp_path, "lmsfe_sam.selftest", broken=("segment_anything",))
    assert line.startswith("error: a package cannot be imported (ImportError: libfoo.so.3: ")


def test_the_self_test_imports_packages_of_other_versions(tmp_path: Path) -> None:
    lines = run(tmp_path, "lmsfe_sam.selftest", broken=("monai", "highdicom"))
    assert [line.split(" (ImportError: libfoo.so.3: ")[0] for line in lines[1:]] == [
        "Problem: monai 0.1 cannot be imported",
        "Problem: highdicom 0.1 cannot be imported",
    ]


def test_every_package_of_the_metadata_can_be_imported(bundle_root: Path) -> None:
    tested = installation.tested_versions(bundle_root)
    assert tested.keys() - {"timm", "torch", "numpy"} == installation.IMPORTED.keys()
    assert installation.find_unusable(dict.fromkeys(tested, "0.1")) == []
