"""MONAI Label: the bundle behind an annotation server."""
