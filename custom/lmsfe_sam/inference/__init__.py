"""Inference on files and folders, with their geometry preserved."""
