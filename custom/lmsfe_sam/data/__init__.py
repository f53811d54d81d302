"""Ultrasound data: folder layouts, splits, loading, augmentation and phantoms."""
