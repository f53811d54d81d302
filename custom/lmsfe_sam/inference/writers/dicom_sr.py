"""DICOM structured reports of the objects' measurements, by template TID 1500."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from lmsfe_sam.inference.writers.dicom_seg import algorithm, concept, object_name, tracking_uid
from lmsfe_sam.inference.writers.image_result import ImageResult
from lmsfe_sam.inference.writers.shapes import measure_shape
from lmsfe_sam.inference.writers.source import (
    EQUIPMENT,
    Identifiers,
    as_ultrasound,
    name_class,
    name_deidentification,
)
from lmsfe_sam.prompts.categories import CATEGORIES

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from highdicom.sr import (
        ComprehensiveSR,
        Measurement,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        ReferencedSegmentationFrame,
    )

SERIES_NUMBER = 9110

_PIXELS = ("{pixels}", "UCUM", "pixels")
_AREA, _LONG, _SHORT = (
    ("42798000", "SCT", "Area"),
    ("103339001", "SCT", "Long axis"),
    ("103340004", "SCT", "Short axis"),
)
_US_IMAGING = ("126000", "DCM", "Imaging Measurement Report")
_ULTRASOUND = ("16310003", "SCT", "Ultrasonography")


def make_report(
    source: Dataset,
    segmentation: Segmentation,
    results: Sequence[ImageResult],
    identifiers: Identifiers,
    *,
    deidentified: bool = False,
) -> ComprehensiveSR:
    """Make the report of a file: area, long and short axis of each object in each frame.

    They are in mm where the spacing is known, else in pixels. Objects of which nothing was found are left
    out. Each measurement refers to the object's frame in the segmentation.

    Args:
        source: of `read_source`.
        segmentation: of `make_segmentation`, of the same results.
        results: of one frame each, all of the same file.
        identifiers: for its UIDs.
        deidentified: say so.

    Raises:
        ValueError: nothing was found at all; the template needs a measurement.
    """
    import highdicom as hd

    shared = segmentation.SharedFunctionalGroupsSequence[0]
    found = {
        (_segment(item, shared), _source_frame(item)): number
        for number, item in enumerate(segmentation.PerFrameFunctionalGroupsSequence, 1)
    }
    groups = [
        group
        for result in sorted(results, key=lambda result: result.frame)
        for number in result.numbers()
        if (group := _group(result, number, found, source, segmentation, identifiers)) is not None
    ]
    if not groups:
        raise ValueError("there is no object to report")
    observer = hd.sr.ObserverContext(
        concept(("121007", "DCM", "Device")),
        hd.sr.DeviceObserverIdentifyingAttributes(
            uid=identifiers.uid("device"), name=EQUIPMENT["manufacturer_model_name"]
        ),
    )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=concept(_ULTRASOUND),
        imaging_measurements=groups,
        title=concept(_US_IMAGING),
    )
    content = hashlib.sha256(segmentation.PixelData).hexdigest()
    made = hd.sr.ComprehensiveSR(
        evidence=[as_ultrasound(source), segmentation],
        content=report,
        series_instance_uid=identifiers.uid("series", "SR", source.SeriesInstanceUID),
        series_number=SERIES_NUMBER,
        sop_instance_uid=identifiers.uid("SR", source.SOPInstanceUID, content),
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="Measurements",
        **EQUIPMENT,
    )
    name_class(made, source)
    _drop_segment_numbers(made)
    if deidentified:
        name_deidentification(made)
    return made


def _drop_segment_numbers(report: Dataset) -> None:
    """A reference names a frame or a segment (PS3.3 table 10-3); highdicom writes both."""

    def correct(_: Dataset, element: DataElement) -> None:
        if element.keyword == "ReferencedSOPSequence":
            for item in element.value:
                if "ReferencedFrameNumber" in item and "ReferencedSegmentNumber" in item:
                    del item.ReferencedSegmentNumber

    report.walk(correct)


def _group(
    result: ImageResult,
    number: int,
    found: dict[tuple[int, int], int],
    source: Dataset,
    segmentation: Segmentation,
    identifiers: Identifiers,
) -> PlanarROIMeasurementsAndQualitativeEvaluations | None:
    import highdicom as hd

    measured = _measurements(result, number)
    frame = found.get((number, result.frame + 1))
    if not measured or frame is None:
        return None
    category = CATEGORIES[result.categories[number - 1]]
    name = object_name(result.categories[number - 1], number)
    if result.frames > 1:
        name = f"{name}, frame {result.frame + 1}"
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=tracking_uid(source, identifiers, number), identifier=name
        ),
        referenced_segment=_reference(segmentation, source, result, number, frame),
        finding_type=concept(category.type),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=str(algorithm()[0].AlgorithmName), version=str(algorithm()[0].AlgorithmVersion)
        ),
        measurements=measured,
    )


def _measurements(result: ImageResult, number: int) -> list[Measurement]:
    import highdicom as hd

    spacing = result.spacing_of(number)
    shape = measure_shape(result.labels == number, spacing or (1.0, 1.0))
    if shape is None:
        return []
    length = ("mm", "UCUM", "millimeter") if spacing else _PIXELS
    area = ("mm2", "UCUM", "square millimeter") if spacing else _PIXELS
    rows = ((_AREA, shape.area, area), (_LONG, shape.long_axis, length), (_SHORT, shape.short_axis, length))
    return [
        hd.sr.Measurement(name=concept(name), value=float(f"{value:.6g}"), unit=concept(unit))
        for name, value, unit in rows
    ]


def _reference(
    segmentation: Segmentation, source: Dataset, result: ImageResult, number: int, frame: int
) -> ReferencedSegmentationFrame:
    import highdicom as hd

    image = hd.sr.SourceImageForSegmentation(
        referenced_sop_class_uid=source.SOPClassUID,
        referenced_sop_instance_uid=source.SOPInstanceUID,
        referenced_frame_numbers=[result.frame + 1] if result.frames > 1 else None,
    )
    return hd.sr.ReferencedSegmentationFrame(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        frame_number=frame,
        segment_number=number,
        source_image=image,
    )


def _segment(item: Dataset, shared: Dataset) -> int:
    """Return the segment of a frame; where there is but one, it is stated for all frames together."""
    holder = item if "SegmentIdentificationSequence" in item else shared
    return int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _source_frame(item: Dataset) -> int:
    """Return the frame of the source that a frame of a segmentation refers to, from 1."""
    image = item.DerivationImageSequence[0].SourceImageSequence[0]
    return int(image.get("ReferencedFrameNumber", 1))
