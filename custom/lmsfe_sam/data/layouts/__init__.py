"""Folder layouts of data sets: which is recognised, and which images and masks it holds."""
