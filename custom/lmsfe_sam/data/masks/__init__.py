"""Masks and label maps, from files or drawn outlines, and the objects in them."""
