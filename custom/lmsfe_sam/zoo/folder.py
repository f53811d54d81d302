"""Write the bundle and the package as one folder, for the model zoo, Hugging Face or a colleague."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import own_bundle, remove_leftovers_of, temporary_prefix
from lmsfe_sam.model.checkpoints import read_description
from lmsfe_sam.model.weights.checks import sha256
from lmsfe_sam.version import __version__
from lmsfe_sam.zoo.checks import LARGEST, METADATA, PACKAGE, imported_modules
from lmsfe_sam.zoo.configs import portable, with_network

NAME = "lmsfe_sam_ultrasound_segmentation"
"""What the bundle is called in the model zoo."""

METADATA_FILE = "configs/metadata.json"
MODEL = "models/model.pt"
DESCRIPTION = "models/model.json"
SELFTEST = "models/selftest.json"
LEFT_OUT = "label"
"""The annotation server's subpackage, which needs an installation with MONAI Label."""

LARGE_FILES = "large_files.yml"
REQUIRED = ("LICENSE", METADATA_FILE, "configs/inference.json", "docs/README.md", "docs/data_license.txt")

Content = Path | str
"""A file to copy, or the text to write."""


@dataclass(frozen=True)
class Options:
    """Options of `lmsfe_sam.package`.

    Attributes:
        output: the folder to write.
        bundle: the source of configs, documents and weights; by default the package's own bundle.
        checkpoint: other weights for ``models/model.pt``.
        model_url: where the weights can be downloaded if they are too large for the zoo.
        any_size: keep files above `LARGEST` bytes, for Hugging Face.
    """

    output: Path
    bundle: Path | None = None
    checkpoint: Path | None = None
    model_url: str | None = None
    any_size: bool = False


def write_bundle(options: Options) -> Path:
    """Write the folder and return its path. A folder that could not be completed is removed.

    Raises:
        InputError: a part is missing, a file is too large, or the output exists or cannot be written to.
    """
    target = options.output.absolute()
    _check_output(target, options.output)
    remove_leftovers_of(target)
    files = bundle_files(options.bundle or own_bundle(), options)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=temporary_prefix(target), dir=target.parent) as scratch:
            written = Path(scratch) / "bundle"
            for name, content in files.items():
                file = written / name
                file.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copyfile(content, file)
                else:
                    file.write_text(content, encoding="utf-8")
            written.rename(target)
    except OSError as error:
        raise InputError(
            f"output '{options.output}' cannot be written to ({error.strerror or error}): "
            "name a new folder in a writable place with --output."
        ) from error
    return target


def bundle_files(bundle: Path, options: Options) -> dict[str, Content]:
    """Return the contents of the packaged folder: a file to copy, or a text to write, for each name.

    Raises:
        InputError: a part is missing, damaged or too large.
    """
    for name in REQUIRED:
        if not (bundle / name).is_file():
            raise InputError(f"bundle '{bundle}' has no {name}: name a complete bundle with --bundle.")
    checkpoint = options.checkpoint or bundle / MODEL
    description = read_description(checkpoint)
    package = Path(__file__).resolve().parents[1]
    files: dict[str, Content] = {"LICENSE": bundle / "LICENSE", MODEL: checkpoint}
    if checkpoint.with_suffix(".json").is_file():
        files[DESCRIPTION] = checkpoint.with_suffix(".json")
    if options.checkpoint is None and (bundle / SELFTEST).is_file():
        files[SELFTEST] = bundle / SELFTEST
    for folder in (bundle / "configs", bundle / "docs"):
        files |= {f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in _visible(folder)}
    code = [path for path in _visible(package) if package / LEFT_OUT not in path.parents]
    files |= {f"{PACKAGE}/{path.relative_to(package).as_posix()}": path for path in code}
    modules = imported_modules(code)
    for name in [name for name in files if name.startswith("configs/") and name.endswith(".json")]:
        config = _read_json(bundle / name)
        if name == METADATA_FILE:
            content = _checked_metadata(config, description, own_weights=options.checkpoint is None)
        else:
            content = portable(config, modules)
            if name == "configs/train.json":
                content = with_network(content, description)
        files[name] = json.dumps(content, indent=4, ensure_ascii=False) + "\n"
    return _without_large_files(files, options)


def _visible(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without caches and hidden files."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{path}' is not JSON ({error}): restore it.") from error
    return content


def _checked_metadata(metadata: dict[str, Any], network: dict[str, Any], own_weights: bool) -> dict[str, Any]:
    """Return the metadata with the input size of the packaged network.

    Raises:
        InputError: a field is missing, or the version is another than the package's.
    """
    missing = [field for field in METADATA if field not in metadata]
    if missing:
        raise InputError(f"configs/metadata.json lacks {', '.join(missing)}: add what is missing.")
    version = metadata["version"]
    if version != __version__ or version not in metadata["changelog"]:
        raise InputError(
            f"configs/metadata.json is of version {version}, the package of {__version__}: "
            "give both the same version, with an entry in changelog."
        )
    size = network["image_size"]
    data_format = json.loads(json.dumps(metadata["network_data_format"]))
    for tensor in (data_format["inputs"]["image"], data_format["outputs"]["pred"]):
        tensor["spatial_shape"] = [size, size]
    # The metadata's scores are those of the bundle's own weights.
    scores = metadata["eval_metrics"] if own_weights else {}
    return {**metadata, "eval_metrics": scores, "network_data_format": data_format}


def _without_large_files(files: dict[str, Content], options: Options) -> dict[str, Content]:
    large = [
        name
        for name, content in files.items()
        if (content.stat().st_size if isinstance(content, Path) else len(content.encode())) > LARGEST
    ]
    if not large or options.any_size:
        return files
    model = files[MODEL]
    if large != [MODEL] or not isinstance(model, Path):
        raise InputError(
            f"{large[0]} is above {LARGEST / 1e6:.0f} MB, which the model zoo does not take: make it smaller."
        )
    if options.model_url is None:
        raise InputError(
            f"'{model}' has {model.stat().st_size / 1e6:.1f} MB and the model zoo takes {LARGEST / 1e6:.0f} "
            "MB a file: name the address that it can be downloaded from with --model_url, or keep it with "
            "--any_size for Hugging Face."
        )
    entry = {"path": MODEL, "url": options.model_url, "hash_val": sha256(model), "hash_type": "sha256"}
    lines = [f"{key}: {json.dumps(value)}" for key, value in entry.items()]
    text = "large_files:\n- " + "\n  ".join(lines) + "\n"
    return {**{name: content for name, content in files.items() if name != MODEL}, LARGE_FILES: text}


def _check_output(target: Path, output: Path) -> None:
    """Refuse an output that exists and is not an empty folder."""
    try:
        is_free = not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise InputError(
            f"output '{output}' cannot be read ({error.strerror}): name a new folder with --output."
        ) from error
    if not is_free or target.is_symlink():
        raise InputError(
            f"output '{output}' is there already: remove it, or name a new folder with --output."
        )
