"""Checks of a packaged bundle that read its files and its metadata, and run nothing of it.

They include those of the zoo's ``ci/verify_bundle.py``, by the same functions of MONAI.
The checks that run the bundle are in `lmsfe_sam.zoo.runtime_checks`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "lmsfe_sam"

ONLINE = "online"
"""In place of the schema's file: MONAI downloads it."""

MODEL_FILES = {"model.pt", "model.json", "selftest.json"}

LARGEST = 25_000_000
"""Largest size of a file in the model zoo, in bytes."""

METADATA: dict[str, type] = {
    "schema": str,
    "version": str,
    "changelog": dict,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "supported_apps": dict,
    "name": str,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "data_source": str,
    "data_type": str,
    "image_classes": str,
    "label_classes": str,
    "pred_classes": str,
    "eval_metrics": dict,
    "intended_use": str,
    "references": list,
    "network_data_format": dict,
}
TENSOR: dict[str, type] = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
    "is_patch_data": bool,
    "channel_def": dict,
}
"""The types that MONAI's schema wants of each field; it makes some of them optional, here all are there."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "nrrd": "pynrrd",
    "ignite": "pytorch-ignite",
    "segment_anything": "segment-anything",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
"""Names on PyPI of modules that have another name there."""

VERSIONED_APART = {"monai", "torch", "numpy"}
"""Packages that have a field of their own in the metadata."""

OPTIONAL = {"av", "matplotlib", "onnx", "onnxruntime", "fsspec", "pyarrow", "ray"}
"""Modules that only videos, figures, batch inference and the checks of exports need; not in the metadata."""


class Skipped(Exception):
    """A check that this environment cannot make; the message names what is missing."""


class Result(NamedTuple):
    """The result of one check.

    Attributes:
        name: of the check.
        state: "passed", "failed" or "skipped".
        detail: what was found, or the reason.
    """

    name: str
    state: str
    detail: str


Check = Callable[[Path, str], str]
"""Takes the bundle's folder and the schema, returns a detail for the table; raises if the check fails."""


def run(checks: Sequence[Check], bundle: Path, schema: str = "") -> list[Result]:
    """Run checks one after the other, and print the time of each.

    Args:
        checks: functions of this module or of `lmsfe_sam.zoo.runtime_checks`.
        bundle: the packaged folder.
        schema: the file of MONAI's metadata schema, `ONLINE`, or an empty string.
    """
    results = []
    for check in checks:
        start = time.perf_counter()
        try:
            state, detail = "passed", check(bundle, schema)
        except Skipped as reason:
            state, detail = "skipped", str(reason)
        except (Exception, SystemExit) as error:
            state, detail = "failed", f"{type(error).__name__}: {error}"
        name = check.__name__.replace("_", " ")
        print(f"{name}: {state}, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        results.append(Result(name, state, " ".join(detail.split())))
    return results


def required_files(bundle: Path, schema: str) -> str:
    """What the zoo asks for, and the documents that its guide names."""
    names = (
        "LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md",
        "docs/data_license.txt",
    )  # fmt: skip
    missing = [name for name in names if not (bundle / name).is_file()]
    urls = [
        f"{entry['path']} from {entry['url']}" for entry in _large_files(bundle) if entry["path"] in missing
    ]
    assert not missing, f"missing: {missing}" + (f"; download {', '.join(urls)}" if urls else "")
    return ", ".join(names)


def file_sizes(bundle: Path, schema: str) -> str:
    """No file is above 25 MB but those that are listed as downloads, and those are above it."""
    listed = _large_files(bundle)
    for entry in listed:
        file = bundle / entry["path"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["hash_val"], f"{file} is another file"
    sizes = {path.relative_to(bundle).as_posix(): path.stat().st_size for path in _files(bundle)}
    large = {name for name, size in sizes.items() if size > LARGEST}
    downloads = {entry["path"] for entry in listed}
    assert large == downloads, f"larger than 25 MB: {sorted(large)}; to be downloaded: {sorted(downloads)}"
    note = f"large_files.yml lists {', '.join(sorted(large))}" if large else "no large_files.yml"
    return f"{len(sizes)} files, the largest {max(sizes.values()) / 1e6:.1f} MB; {note}"


def no_other_files(bundle: Path, schema: str) -> str:
    """No caches, results or hidden files."""
    expected = {"LICENSE", "configs", "docs", "models", PACKAGE}
    stray = {path.name for path in bundle.iterdir()} - expected - {"large_files.yml"}
    stray |= {path.name for path in (bundle / "models").iterdir()} - MODEL_FILES
    stray |= {path.name for path in _files(bundle) if path.name.startswith(".") or path.suffix == ".pyc"}
    assert not stray, f"stray: {sorted(stray)}"
    return ", ".join(sorted(expected))


def version_and_changelog(bundle: Path, schema: str) -> str:
    """The version stands in the changelog, and is that of the package inside."""
    metadata = read_metadata(bundle)
    assert metadata["version"] in metadata["changelog"], "the version is not in the changelog"
    own = ast.literal_eval((bundle / "lmsfe_sam" / "version.py").read_text().rpartition("=")[2].strip())
    assert metadata["version"] == own, f"the package inside is of version {own}"
    return f"{metadata['version']}: {metadata['changelog'][metadata['version']]}"


def metadata_fields(bundle: Path, schema: str) -> str:
    """Every field is there, has its type, and is not empty where it should say something."""
    metadata = read_metadata(bundle)
    _check_types(metadata, METADATA)
    empty = [key for key in METADATA if metadata[key] in ("", []) and key != "references"]
    assert not empty, f"empty: {empty}"
    assert "optional_packages_version" not in metadata, "it would replace the required packages"
    data = metadata["network_data_format"]
    assert next(iter(data["inputs"])) == "image" and next(iter(data["outputs"])) == "pred"
    for tensor in (*data["inputs"].values(), *data["outputs"].values()):
        _check_types(tensor, TENSOR)
        assert all(key.isdigit() for key in tensor["channel_def"]), "keys of channel_def are not numbers"
        assert len(tensor["channel_def"]) == tensor["num_channels"]
    return f"{len(METADATA)} fields, {len(TENSOR)} of each tensor"


def metadata_schema(bundle: Path, schema: str) -> str:
    """MONAI's ``verify_metadata``, with the schema's file in the place that it would be downloaded to."""
    from monai.bundle import verify_metadata

    if find_spec("jsonschema") is None:
        raise Skipped("jsonschema is not installed")
    if not schema:
        raise Skipped("give the schema's file with --schema, or let MONAI download it with --online")
    target = bundle / "eval" / "schema.json"
    target.parent.mkdir(exist_ok=True)
    if schema != ONLINE:
        target.write_bytes(Path(schema).read_bytes())
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(target))
    return "verify_metadata"


def packages(bundle: Path, schema: str) -> str:
    """The metadata lists every package that the code imports, in a version that can be had."""
    metadata = read_metadata(bundle)
    listed = metadata["required_packages_version"]
    needed = {
        DISTRIBUTIONS.get(name, name)
        for name in imported_modules((bundle / PACKAGE).rglob("*.py")) - VERSIONED_APART
    }
    assert needed <= set(listed), f"not listed: {sorted(needed - set(listed))}"
    versions = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **listed,
    }
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in versions}
    others = [f"{name} {installed[name]}" for name in versions if installed[name] != versions[name]]
    note = f"; tried here with {', '.join(others)}" if others else ", the versions tried here"
    return f"{len(versions)} packages{note}"


def properties_of_apps(bundle: Path, schema: str) -> str:
    """The zoo checks the properties of each app that the metadata names."""
    apps = read_metadata(bundle)["supported_apps"]
    assert not apps, f"no properties are known of {sorted(apps)}"
    return "supported_apps names none"


CHECKS: tuple[Check, ...] = (
    required_files,
    no_other_files,
    file_sizes,
    version_and_changelog,
    metadata_fields,
    metadata_schema,
    packages,
    properties_of_apps,
)


def read_metadata(bundle: Path) -> dict[str, Any]:
    """Return the content of ``configs/metadata.json``."""
    metadata: dict[str, Any] = json.loads((bundle / "configs/metadata.json").read_text())
    return metadata


def imported_modules(files: Iterable[Path]) -> set[str]:
    """Return the top-level modules that Python files import, without Python's own and `OPTIONAL` ones."""
    names = {name for path in files if path.suffix == ".py" for name in _imports(path)}
    return names - set(sys.stdlib_module_names) - {PACKAGE} - OPTIONAL


def _files(bundle: Path) -> list[Path]:
    return [path for path in bundle.rglob("*") if path.is_file()]


def _large_files(bundle: Path) -> list[dict[str, str]]:
    if not (bundle / "large_files.yml").is_file():
        return []
    import yaml

    listed: list[dict[str, str]] = yaml.safe_load((bundle / "large_files.yml").read_text())["large_files"]
    return listed


def _check_types(values: Mapping[str, Any], types: Mapping[str, type]) -> None:
    wrong = [key for key, kind in types.items() if not isinstance(values.get(key), kind)]
    assert not wrong, f"missing or of the wrong type: {wrong}"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
