"""The datastore before a DICOMweb server."""

from __future__ import annotations

from monailabel.datastore.dicom import DICOMWebDatastore

from lmsfe_sam.label.checks import check_tag
from lmsfe_sam.label.store import SafeStore


class DicomWebStore(DICOMWebDatastore, SafeStore):
    """MONAI Label's store before a DICOMweb server, whose files here are kept as `SafeStore` keeps them."""

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of a series, fetched and converted if need be."""
        check_tag(image_id)
        return str(super().get_image_uri(image_id))

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Return the path of a label, fetched and converted if need be."""
        check_tag(label_id)
        check_tag(label_tag)
        return str(super().get_label_uri(label_id, label_tag, image_id))
