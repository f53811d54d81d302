"""DICOM segmentations: a file's objects as segments, binary or as probabilities, frame by frame."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from lmsfe_sam.images.scale import is_known
from lmsfe_sam.inference.writers.image_result import ImageResult
from lmsfe_sam.inference.writers.overlay import COLOURS
from lmsfe_sam.inference.writers.source import (
    EQUIPMENT,
    Identifiers,
    add_geometry,
    as_ultrasound,
    name_class,
    name_deidentification,
)
from lmsfe_sam.prompts.categories import CATEGORIES, Code
from lmsfe_sam.version import __version__

if TYPE_CHECKING:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr import CodedConcept

SERIES_NUMBER = 9100
UNSCALED = "Pixel spacing unknown, 1 mm written"


def make_segmentation(
    source: Dataset,
    results: Sequence[ImageResult],
    identifiers: Identifiers,
    *,
    fractional: bool = False,
    deidentified: bool = False,
) -> Segmentation:
    """Make the DICOM segmentation of a file.

    Object k is segment k; in a file of several frames it is the same segment in all of them. Frames without
    an object are left out, unless none has one. It belongs to the study of the source, in a series of its
    own.

    Args:
        source: of `read_source`.
        results: of one frame each, all of the same file.
        identifiers: for its UIDs, which also depend on the pixels.
        fractional: write the probabilities, which each result must have, instead of the label map.
        deidentified: say so.

    Raises:
        ValueError: probabilities are wanted and there are none.
    """
    import highdicom as hd

    ordered = sorted(results, key=lambda result: result.frame)
    first = ordered[0]
    placed = add_geometry(as_ultrasound(source), first.affine, first.spacing)
    pixels = _probabilities(ordered) if fractional else np.stack([result.labels for result in ordered])
    kind = "FRACTIONAL" if fractional else "BINARY"
    content = hashlib.sha256(pixels.tobytes()).hexdigest()
    groups = placed.PerFrameFunctionalGroupsSequence
    made = hd.seg.Segmentation(
        [placed],
        pixels,
        kind,
        describe_segments(ordered, source, identifiers),
        series_instance_uid=identifiers.uid("series", kind, source.SeriesInstanceUID),
        series_number=SERIES_NUMBER + fractional,
        sop_instance_uid=identifiers.uid(kind, source.SOPInstanceUID, content),
        instance_number=1,
        content_label="SEGMENTATION",
        content_description=None if is_known(first.spacing) else UNSCALED,
        series_description="Segmentation" if not fractional else "Segmentation, probabilities",
        plane_positions=[groups[result.frame].PlanePositionSequence for result in ordered],
        **EQUIPMENT,
    )
    made.ContentCreatorName = None
    name_class(made, source)
    _replace_uids(made, identifiers, made.SOPInstanceUID)
    if deidentified:
        name_deidentification(made)
    return made


def describe_segments(
    results: Sequence[ImageResult], source: Dataset, identifiers: Identifiers
) -> list[SegmentDescription]:
    """Describe the objects of a file: their categories, and the algorithm that found them."""
    import highdicom as hd

    richest = max(results, key=lambda result: len(result.rows))
    described = []
    for number, name in zip(richest.numbers(), richest.categories, strict=True):
        category = CATEGORIES[name]
        described.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=object_name(name, number),
                segmented_property_category=concept(category.group),
                segmented_property_type=concept(category.type),
                algorithm_type="SEMIAUTOMATIC",
                algorithm_identification=algorithm(),
                tracking_id=object_name(name, number),
                tracking_uid=tracking_uid(source, identifiers, number),
                display_color=hd.color.CIELabColor.from_rgb(*COLOURS[(number - 1) % len(COLOURS)].tolist()),
            )
        )
    return described


def algorithm() -> AlgorithmIdentificationSequence:
    """Return what DICOM objects say of the algorithm."""
    import highdicom as hd

    return hd.AlgorithmIdentificationSequence(
        name="LMSFE-SAM", version=__version__, family=concept(("123109", "DCM", "Artificial Intelligence"))
    )


def object_name(category: str, number: int) -> str:
    """Return an object's name, such as "Lesion 1"."""
    return f"{CATEGORIES[category].type[2]} {number}"


def tracking_uid(source: Dataset, identifiers: Identifiers, number: int) -> UID:
    """Return the UID that an object has in each DICOM result of a file."""
    return identifiers.uid("object", source.SOPInstanceUID, number)


def concept(code: Code) -> CodedConcept:
    """Return a code as highdicom takes it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(*code)


def _probabilities(results: Sequence[ImageResult]) -> np.ndarray:
    """Return (F, H, W, N) float32 in 0..1."""
    count = max(len(result.rows) for result in results)
    height, width = results[0].labels.shape
    stacked = np.zeros((len(results), height, width, count), np.float32)
    for target, result in zip(stacked, results, strict=True):
        if result.probabilities is None:
            raise ValueError("there are no probabilities: make the inferer keep them")
        target[..., : len(result.rows)] = result.probabilities.transpose(1, 2, 0) / np.float32(255)
    return stacked


def _replace_uids(dataset: Dataset, identifiers: Identifiers, own: str) -> None:
    """Make the dimension organization's UID, which highdicom draws at random, depend on the seed."""
    uid = identifiers.uid("dimensions", own)
    for key in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(key) or []:
            item.DimensionOrganizationUID = uid
