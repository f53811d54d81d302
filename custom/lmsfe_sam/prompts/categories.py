"""What a segmented object may be, and the codes that DICOM has for it."""

from __future__ import annotations

from typing import NamedTuple

ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMICAL = ("91723000", "SCT", "Anatomical Structure")
TISSUE = ("85756007", "SCT", "Tissue")

Code = tuple[str, str, str]
"""Value, coding scheme and meaning."""


class Category(NamedTuple):
    """A kind of object.

    Attributes:
        group: code of the segmented property category, of DICOM's context group 7150.
        type: code of the segmented property type, as pydicom's dictionary of SNOMED CT has it.
    """

    group: Code
    type: Code


CATEGORIES = {
    "lesion": Category(ABNORMAL, ("52988006", "SCT", "Lesion")),
    "nodule": Category(ABNORMAL, ("27925004", "SCT", "Nodule")),
    "mass": Category(ABNORMAL, ("4147007", "SCT", "Mass")),
    "cyst": Category(ABNORMAL, ("367643001", "SCT", "Cyst")),
    "tumor": Category(ABNORMAL, ("108369006", "SCT", "Neoplasm")),
    "plaque": Category(ABNORMAL, ("1522000", "SCT", "Plaque")),
    "nerve": Category(ANATOMICAL, ("91728009", "SCT", "Nerve")),
    "vessel": Category(ANATOMICAL, ("59820001", "SCT", "Blood Vessel")),
    "artery": Category(ANATOMICAL, ("51114001", "SCT", "Artery")),
    "vein": Category(ANATOMICAL, ("29092000", "SCT", "Vein")),
    "tendon": Category(ANATOMICAL, ("13024002", "SCT", "Tendon")),
    "bone": Category(ANATOMICAL, ("272673000", "SCT", "Bone")),
    "head": Category(ANATOMICAL, ("69536005", "SCT", "Head")),
    "lymph_node": Category(ANATOMICAL, ("59441001", "SCT", "Lymph Node")),
    "thyroid": Category(ANATOMICAL, ("69748006", "SCT", "Thyroid")),
    "breast": Category(ANATOMICAL, ("76752008", "SCT", "Breast")),
    "heart": Category(ANATOMICAL, ("80891009", "SCT", "Heart")),
    "left_ventricle": Category(ANATOMICAL, ("87878005", "SCT", "Left ventricle")),
    "liver": Category(ANATOMICAL, ("10200004", "SCT", "Liver")),
    "kidney": Category(ANATOMICAL, ("64033007", "SCT", "Kidney")),
    "prostate": Category(ANATOMICAL, ("41216001", "SCT", "Prostate")),
    "muscle": Category(TISSUE, ("71616004", "SCT", "Muscle")),
}
"""By the names that the prompts file and ``--category`` take."""
