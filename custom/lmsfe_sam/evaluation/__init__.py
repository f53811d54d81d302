"""Evaluation: prompt modes, controls, metrics and their statistics."""
