"""Stands in for pydicom-seg, which MONAI Label 0.8.5 imports and which breaks on pydicom 3 and NumPy 2.

MONAI Label calls it for ``output=dicom_seg`` alone, which the server answers without it.
"""
