"""Synthetic B-mode phantoms with exactly known lesions."""
