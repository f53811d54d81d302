"""Inference on more images than one folder holds: from manifests and URLs, in one process or on Ray Data."""
