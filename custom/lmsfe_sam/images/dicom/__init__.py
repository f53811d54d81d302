"""DICOM files: header, pixels and display."""
