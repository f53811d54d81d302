"""MONAI transforms that the configs name: loading, resizing and augmentation."""
