"""The DICOM file that a result belongs to: what is copied from it, and what is generated if it is missing.

highdicom derives patient, study and references of a new object from the data set of the source, and raises an
error where an element is missing or malformed. So it is given a stand-in that holds what a result needs and
nothing else, each element valid.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage
from pydicom.valuerep import DA, TM, validate_value

from lmsfe_sam.version import __version__

logger = logging.getLogger(__name__)

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
OPTIONAL = (
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
UTF_8 = "ISO_IR 192"
"""The character set of results with more than ASCII, whatever that of the source is: it may be malformed, and
highdicom does not know all."""

IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")

DEIDENTIFICATION = (
    ("113100", "DCM", "Basic Application Confidentiality Profile"),
    ("113110", "DCM", "Retain UIDs Option"),
)
"""PS3.15 annex E; the UIDs stay, since a result without them belongs to no image any more."""

EQUIPMENT: dict[str, Any] = {
    "manufacturer": "LMSFE-SAM",
    "manufacturer_model_name": "lmsfe_sam",
    "software_versions": __version__,
    "device_serial_number": "none",
}
"""Keyword arguments of every object that highdicom makes."""

TEXTS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
"""Types of elements whose bytes depend on the character set."""

_ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Identifiers:
    """New UIDs: from a seed and what they are for alone, or never the same again without a seed."""

    seed: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def of(cls, seed: int | None) -> Identifiers:
        """Return those of a seed, or unrepeatable ones."""
        return cls() if seed is None else cls(str(seed))

    def uid(self, *what: object) -> UID:
        """Return the UID for what is described, under 2.25 as PS3.5 B.2 has it for UUIDs."""
        text = "\0".join([self.seed, *map(str, what)]).encode("utf-8", "surrogateescape")
        return UID(f"2.25.{int.from_bytes(hashlib.sha256(text).digest()[:16], 'big')}")


def read_source(
    path: Path, size: tuple[int, int], frames: int, identifiers: Identifiers, deidentify: bool = False
) -> Dataset:
    """Return a stand-in for a DICOM file: patient, study, UIDs, size and frames, without pixels.

    UIDs and classes that are missing or malformed are made, and a line of the log says so; what else is
    missing or malformed is empty.

    Args:
        path: of the file.
        size: height and width of its frames.
        frames: how many there are.
        identifiers: for UIDs that it lacks.
        deidentify: leave out what identifies the patient: `DEIDENTIFICATION`.
    """
    original = dcmread(path, stop_before_pixels=True, force=True)
    source, made = Dataset(), []
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for key in IDENTIFIERS:
        if not _copy(original, source, key):
            # A study's or a series' files have at least their folder in common.
            own = path.name if key == "SOPInstanceUID" else path.parent.resolve()
            setattr(source, key, identifiers.uid(key, own))
            made.append(key)
    for key in (*PATIENT, *STUDY):
        if deidentify or not _copy(original, source, key):
            setattr(source, key, "")
    for key in OPTIONAL:
        if not deidentify or key.startswith("Lossy"):
            _copy(original, source, key)
    if deidentify:
        source.PatientName = "ANONYMOUS^"
        source.PatientID = f"ANON-{hashlib.sha256(source.StudyInstanceUID.encode()).hexdigest()[:12]}"
    if not _copy(original, source, "SOPClassUID"):
        source.SOPClassUID = UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
        made.append("SOPClassUID")
    if not _copy(original, source, "Modality"):
        source.Modality = "US"
        made.append("Modality")
    source.Rows, source.Columns, source.NumberOfFrames = *size, frames
    if "ImagePositionPatient" in original and "ImageOrientationPatient" in original:
        _copy(original, source, "FrameOfReferenceUID")
    if "FrameOfReferenceUID" not in source:
        source.FrameOfReferenceUID = identifiers.uid("FrameOfReferenceUID", source.SOPInstanceUID)
    if any(not str(element.value).isascii() for element in source):
        source.SpecificCharacterSet = UTF_8
    if made:
        logger.warning("'%s' lacks %s; made for its DICOM results.", path, ", ".join(made))
    return source


def add_geometry(source: Dataset, affine: np.ndarray, spacing: Sequence[float]) -> Dataset:
    """Return the stand-in as highdicom's `Segmentation` takes it: with a place in space for each frame.

    Ultrasound files mostly have none. Readers of segmentations want one, so it is the place that label maps
    in NIfTI have: that of the affine, frame after frame along its third axis.

    Args:
        source: of `read_source`.
        affine: (4, 4), from the file's voxels (x, y, frame) to RAS mm.
        spacing: of rows and columns in mm; 1 where it is unknown.
    """
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence

    lps = _LPS @ affine
    along = [vector / (np.linalg.norm(vector) or 1.0) for vector in lps[:3, :2].T]
    orientation = tuple(float(f"{value:.9g}") for vector in along for value in vector) or _ORIENTATION
    rows, columns = (1.0 if np.isnan(step) else float(f"{step:.9g}") for step in spacing)
    step = float(np.linalg.norm(lps[:3, 2])) or 1.0
    normal = np.cross(along[0], along[1])
    placed = deepcopy(source)
    placed.PixelSpacing, placed.SliceThickness, placed.SpacingBetweenSlices = [rows, columns], step, step
    placed.ImageOrientationPatient = list(orientation)
    placed.ImagePositionPatient = [float(f"{value:.9g}") for value in lps[:3, 3]]
    shared = Dataset()
    shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", orientation)
    shared.PixelMeasuresSequence = PixelMeasuresSequence((rows, columns), step, step)
    placed.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for frame in range(placed.NumberOfFrames):
        position = lps[:3, 3] + frame * step * normal
        item = Dataset()
        item.PlanePositionSequence = PlanePositionSequence(
            "PATIENT", tuple(float(f"{value:.9g}") for value in position)
        )
        frames.append(item)
    placed.PerFrameFunctionalGroupsSequence = frames
    return placed


def as_ultrasound(source: Dataset) -> Dataset:
    """Return the stand-in with the class of ultrasound that its frames make it.

    highdicom looks at the class, not at the frames, and knows no private classes. `name_class` puts the real
    one into references.
    """
    stand_in = deepcopy(source)
    several = source.NumberOfFrames > 1
    stand_in.SOPClassUID = UltrasoundMultiFrameImageStorage if several else UltrasoundImageStorage
    return stand_in


def name_class(dataset: Dataset, source: Dataset) -> None:
    """Put the class that the source has into every reference to it."""

    def correct(_: Dataset, element: DataElement) -> None:
        if element.VR == "SQ":
            for item in element.value:
                if item.get("ReferencedSOPInstanceUID") == source.SOPInstanceUID:
                    item.ReferencedSOPClassUID = source.SOPClassUID

    dataset.walk(correct)


def name_deidentification(dataset: Dataset) -> None:
    """Say in an object how its patient's identity was removed."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = DEIDENTIFICATION[0][2]
    items = []
    for value, scheme, meaning in DEIDENTIFICATION:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        items.append(item)
    dataset.DeidentificationMethodCodeSequence = items


def _copy(original: Dataset, target: Dataset, key: str) -> bool:
    """Copy a valid element; whether there is one with a value."""
    try:
        element: Any = original[key]
        if element.value is None or element.value == "" or not _is_valid(element):
            return False
        if element.VR in TEXTS:  # decoded, for another character set
            element = DataElement(element.tag, element.VR, _text(element.value))
        target[key] = element
    except Exception:  # pydicom raises whatever it likes on a malformed element
        return False
    return True


def _text(value: Any) -> Any:
    return [str(one) for one in value] if isinstance(value, MultiValue) else str(value)


def _is_valid(element: DataElement) -> bool:
    """Whether an element can stand in a new object."""
    if isinstance(element.value, MultiValue) and dictionary_VM(element.tag) == "1":
        return False
    if element.VR == "UI":
        return UID(element.value).is_valid
    if element.keyword == "PatientSex":
        return element.value in ("M", "F", "O")
    if element.VR in ("DA", "TM"):
        return bool((DA if element.VR == "DA" else TM)(str(element.value)))
    if element.VR == "SQ" or isinstance(element.value, str) is False:
        return True
    validate_value(element.VR, element.value, RAISE)
    return True
