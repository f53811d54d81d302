"""Which files can be segmented, told by their names, and DICOM files also by their content."""

from __future__ import annotations

from pathlib import Path

from lmsfe_sam.data.pictures import PICTURE_SUFFIXES

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom")
INPUT_SUFFIXES = (*sorted(PICTURE_SUFFIXES), *NIFTI_SUFFIXES, *ITK_SUFFIXES, *DICOM_SUFFIXES)

_DICOM_PREAMBLE = 128
_DICOM_MAGIC = b"DICM"


def known_suffix(path: Path) -> str:
    """Return the suffix of ``path`` as `INPUT_SUFFIXES` spells it, or "" if it is none of them."""
    name = path.name.lower()
    return max((suffix for suffix in INPUT_SUFFIXES if name.endswith(suffix)), key=len, default="")


def stem(path: Path) -> str:
    """Return the file name without its known suffix: ``case.nii.gz`` gives ``case``, ``1.2.840`` itself."""
    suffix = known_suffix(path)
    return path.name[: len(path.name) - len(suffix)] or path.name


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix or, where it has no known one, by its first bytes."""
    suffix = known_suffix(path)
    if suffix:
        return suffix in DICOM_SUFFIXES
    try:
        with path.open("rb") as file:
            return file.read(_DICOM_PREAMBLE + len(_DICOM_MAGIC))[_DICOM_PREAMBLE:] == _DICOM_MAGIC
    except OSError:
        return False


def is_input(path: Path) -> bool:
    """Whether a file is one that inference reads."""
    return path.is_file() and (known_suffix(path) != "" or is_dicom(path))
