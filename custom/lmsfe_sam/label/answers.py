"""The inference task of the server, which answers with DICOM segmentations of DICOM images, too."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from monailabel.tasks.infer.bundle import BundleInferTask

from lmsfe_sam.inference.writers.exporting import DicomWriter
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX
from lmsfe_sam.inference.writers.source import Identifiers
from lmsfe_sam.label.request import EXTENSION, FOUND, RESULT


class AnsweringTask(BundleInferTask):
    """MONAI Label's inference with a bundle, but for how DICOM segmentations are written."""

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[Any, Any]:
        """Write the answer to a temporary file; return its path and what is sent beside it.

        Args:
            data: after postprocessing.
            extension: of the file; by default that of the request.
            dtype: of its values; a DICOM segmentation has its own.
        """
        if (extension or data.get(EXTENSION)) != DICOM_SUFFIX:
            return super().writer(data, extension, dtype)
        handle, name = tempfile.mkstemp(suffix=DICOM_SUFFIX)
        os.close(handle)
        DicomWriter(Identifiers.of(None), "").write(Path(name), data[FOUND])
        return name, data[RESULT]
