"""Inference on files and folders, with geometry kept."""
