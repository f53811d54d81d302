"""The packages that this one needs: which are missing, of other versions than the tested ones, or broken."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import own_bundle, read_text

METADATA = "configs/metadata.json"

IMPORTED = {
    "monai": "monai.bundle",
    "pytorch-ignite": "ignite.engine",
    "fire": "fire",
    "torchvision": "torchvision",
    "segment-anything": "segment_anything",
    "scikit-image": "skimage.transform",
    "scipy": "scipy.ndimage",
    "pillow": "PIL.Image",
    "nibabel": "nibabel",
    "pydicom": "pydicom",
    "python-gdcm": "gdcm",
    "pyjpegls": "jpeg_ls",
    "pylibjpeg": "pylibjpeg",
    "pylibjpeg-openjpeg": "openjpeg",
    "pynrrd": "nrrd",
    "tifffile": "tifffile",
    "highdicom": "highdicom",
    "itk": "itk",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
    "jinja2": "jinja2",
    "markupsafe": "markupsafe",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
}
"""A module of each package that every command needs. timm is imported where a backbone is made of it."""


class InstallationError(InputError, ImportError):
    """This package cannot be imported, because one that it needs is missing or broken."""


def explain(error: ImportError) -> InstallationError:
    """Return in a sentence why this package cannot be imported.

    Args:
        error: what the import of another package raised.
    """
    try:
        missing = missing_packages(tested_versions(own_bundle()))
    except InputError:
        missing = []
    if missing:
        return InstallationError(_install(missing))
    return InstallationError(f"a package cannot be imported ({_first_line(error)}): install it again.")


def find_unusable(tested: dict[str, str]) -> list[str]:
    """Return a sentence for what is missing, or else one for each package that cannot be imported.

    Packages of the tested versions are not imported: that takes longer than all the rest of the self-test.

    Args:
        tested: versions by the packages' names.
    """
    missing = missing_packages(tested)
    if missing:
        return [_install(missing)]
    problems = []
    for name in [name for name in IMPORTED if name in tested and installed(name) != tested[name]]:
        try:
            importlib.import_module(IMPORTED[name])
        except Exception as error:  # a broken library raises OSError, one that is too old AttributeError
            problems.append(
                f"{name} {installed(name)} cannot be imported ({_first_line(error)}): "
                f"run pip install --force-reinstall {name}=={tested[name]}."
            )
    return problems


def missing_packages(tested: dict[str, str]) -> list[str]:
    """Return what pip has to install, such as "timm==1.0.31".

    Args:
        tested: versions by the packages' names.
    """
    return [f"{name}=={tested[name]}" for name in tested if installed(name) is None]


def tested_versions(bundle: Path) -> dict[str, str]:
    """Return the versions in the bundle's metadata by the packages' names on PyPI.

    Raises:
        InputError: the metadata is missing or damaged.
    """
    metadata = read_json(bundle / METADATA)
    try:
        apart = {
            "monai": metadata["monai_version"],
            "torch": metadata["pytorch_version"],
            "numpy": metadata["numpy_version"],
        }
        return apart | metadata["required_packages_version"]
    except (KeyError, TypeError) as error:
        raise InputError(f"'{bundle / METADATA}' is incomplete: install the bundle again.") from error


def other_versions(tested: dict[str, str]) -> str:
    """Return which packages are of another version, such as "torch 2.13.0 instead of 2.14.1"."""
    own = {name: installed(name) for name in tested}
    return ", ".join(
        f"{name} {own[name]} instead of {tested[name]}" for name in own if own[name] != tested[name]
    )


def read_json(path: Path, missing: str = "") -> Any:
    """Return the content of a file of the bundle.

    Args:
        path: the file.
        missing: what else than another bundle helps where there is no such file.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError as error:
        raise InputError(
            f"'{path}' does not exist: name a complete bundle with --bundle{missing}."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is damaged ({error}): restore it.") from error


def installed(name: str) -> str | None:
    """Return a package's version; None if it is missing."""
    try:
        return version(name).split("+")[0]
    except (PackageNotFoundError, ValueError):  # the second: a name that is none
        return None


def _install(missing: list[str]) -> str:
    return f"packages are missing: run pip install {' '.join(missing)}."


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:150]
