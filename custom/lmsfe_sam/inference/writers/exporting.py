"""Files for other programs, written for each image; docs/outputs.md lists them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.utils import MetaKeys

from lmsfe_sam.files import atomic_write
from lmsfe_sam.images.formats import is_dicom
from lmsfe_sam.inference.inferers import PROBABILITIES
from lmsfe_sam.inference.results import MASKS
from lmsfe_sam.inference.transforms import CATEGORY, OBJECTS, SLICE, scale_of
from lmsfe_sam.inference.writers.coco import merge_coco, to_coco
from lmsfe_sam.inference.writers.contours import to_geojson, to_svg
from lmsfe_sam.inference.writers.image_result import ImageResult
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom.dataset import Dataset

    from lmsfe_sam.inference.writers.source import Identifiers

logger = logging.getLogger(__name__)

DRAWINGS: dict[str, tuple[str, Callable[[ImageResult], str]]] = {
    "geojson": ("contours/{}.geojson", to_geojson),
    "svg": ("contours/{}.svg", to_svg),
    "coco": ("coco/{}.json", to_coco),
}
"""By the names of `Output`: the file's name, and what it holds."""

COCO = "coco.json"


class DrawingWriter:
    """A text file for each image, one of `DRAWINGS`.

    Args:
        form: which.
        category: of objects whose prompt names none.
    """

    def __init__(self, form: str, category: str = "lesion") -> None:
        self.form = form
        self.category = category

    def name(self, item: Mapping[str, Any]) -> str:  # noqa: D102
        return DRAWINGS[self.form][0].format(item["stem"])

    def write(self, path: Path, item: Mapping[str, Any]) -> None:  # noqa: D102
        with atomic_write(path) as temporary:
            temporary.write_text(DRAWINGS[self.form][1](image_result(item, self.category)), encoding="utf-8")


class DicomWriter:
    """A DICOM object for each DICOM file: a segmentation, or the report of its measurements.

    Args:
        identifiers: for its UIDs; those of a report fit the segmentation of the same ones.
        folder: of the files.
        category: of objects whose prompt names none.
        deidentify: leave out what identifies the patient.
    """

    def __init__(
        self, identifiers: Identifiers, folder: str, category: str = "lesion", deidentify: bool = False
    ) -> None:
        self.identifiers = identifiers
        self.folder = folder
        self.category = category
        self.deidentify = deidentify

    def name(self, item: Mapping[str, Any]) -> str | None:
        """Return the file's name; None where the image is not DICOM, which a line of the log says."""
        path = Path(item["pred"].meta["filename_or_obj"])
        if is_dicom(path):
            return f"{self.folder}/{item['stem']}{DICOM_SUFFIX}"
        logger.warning("'%s' is no DICOM file: nothing of it is in '%s'.", path, self.folder)
        return None

    def write(self, path: Path, item: Mapping[str, Any]) -> None:
        """Write the object of a single image."""
        self.write_frames(path, [item])

    def write_frames(self, path: Path, items: Sequence[Mapping[str, Any]]) -> None:
        """Write the object of several frames of one file."""
        from lmsfe_sam.inference.writers.source import read_source

        results = [image_result(item, self.category) for item in items]
        first = results[0]
        height, width = first.labels.shape
        source = read_source(first.path, (height, width), first.frames, self.identifiers, self.deidentify)
        made = self.make(source, results)
        with atomic_write(path) as temporary:
            made.save_as(temporary, enforce_file_format=True)

    def make(self, source: Dataset, results: Sequence[ImageResult]) -> Dataset:
        """Make the object."""
        return self.segmentation(source, results, fractional=False)

    def segmentation(self, source: Dataset, results: Sequence[ImageResult], fractional: bool) -> Segmentation:
        """Make the segmentation."""
        from lmsfe_sam.inference.writers.dicom_seg import make_segmentation

        return make_segmentation(
            source, results, self.identifiers, fractional=fractional, deidentified=self.deidentify
        )


class FractionalWriter(DicomWriter):
    """DICOM segmentations of the probabilities, which the inferer must keep."""

    def make(self, source: Dataset, results: Sequence[ImageResult]) -> Dataset:  # noqa: D102
        return self.segmentation(source, results, fractional=True)


class ReportWriter(DicomWriter):
    """DICOM structured reports of the measurements."""

    def name(self, item: Mapping[str, Any]) -> str | None:
        """Return the file's name; None also where nothing was found that can be measured."""
        return super().name(item) if bool((item["pred"] > 0).any()) else None

    def make(self, source: Dataset, results: Sequence[ImageResult]) -> Dataset:  # noqa: D102
        from lmsfe_sam.inference.writers.dicom_sr import make_report

        segmentation = self.segmentation(source, results, fractional=False)
        return make_report(source, segmentation, results, self.identifiers, deidentified=self.deidentify)


def make_writers(
    outputs: Sequence[str], output_ext: str, category: str, deidentify: bool, seed: int | None
) -> list[DrawingWriter | DicomWriter]:
    """Return the writers that ``outputs`` names, in addition to label maps and overlays.

    Args:
        outputs: of `lmsfe_sam.options.InferenceOptions`.
        output_ext: of the masks; ``.dcm`` for segmentations in the folder of the masks.
        category, deidentify: of the writers.
        seed: of the UIDs; None for ones that are never the same again.
    """
    from lmsfe_sam.inference.writers.source import Identifiers

    identifiers = Identifiers.of(seed)
    as_masks = output_ext == DICOM_SUFFIX and "mask" in outputs
    writers: list[DrawingWriter | DicomWriter] = [
        DrawingWriter(form, category) for form in DRAWINGS if form in outputs
    ]
    if as_masks or "dicom_seg" in outputs or "dicom_sr" in outputs:
        folder = MASKS if as_masks else "dicom_seg"
        writers.append(DicomWriter(identifiers, folder, category, deidentify))
    if "dicom_seg_fractional" in outputs:
        writers.append(FractionalWriter(identifiers, "dicom_seg_fractional", category, deidentify))
    if "dicom_sr" in outputs:
        writers.append(ReportWriter(identifiers, "dicom_sr", category, deidentify))
    return writers


def write_coco(folder: Path, outputs: Sequence[str], finished: Sequence[str]) -> None:
    """Join the COCO files of images in ``coco.json``, if ``outputs`` asks for it.

    Args:
        folder: of the run.
        outputs: of the run.
        finished: files of the finished images, in their order.
    """
    if "coco" not in outputs:
        return
    prefix = DRAWINGS["coco"][0].split("{")[0]
    files = [folder / name for name in finished if name.startswith(prefix)]
    content = merge_coco([json.loads(file.read_text(encoding="utf-8")) for file in files])
    with atomic_write(folder / COCO) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def image_result(item: Mapping[str, Any], category: str) -> ImageResult:
    """Return what was found in one image.

    Args:
        item: what was loaded of it and what was found.
        category: of objects whose prompt names none.
    """
    meta, rows = item["pred"].meta, item[OBJECTS]
    given = item.get(CATEGORY) or ""
    names = given.split(",") if given else [""] * len(rows)
    shape = [int(size) for size in meta[MetaKeys.SPATIAL_SHAPE]]
    probabilities = item.get(PROBABILITIES)
    return ImageResult(
        path=Path(str(meta["filename_or_obj"])),
        name=item["name"],
        stem=item["stem"],
        labels=item["pred"][0].cpu().numpy(),
        rows=rows,
        categories=[name or category for name in names],
        affine=np.asarray(meta[MetaKeys.ORIGINAL_AFFINE], dtype=float),
        scale=scale_of(meta),
        frame=int(meta[SLICE]),
        frames=int(np.prod(shape[2:], dtype=int)),
        probabilities=None if probabilities is None else probabilities.cpu().numpy(),
    )
