"""Evaluation: prompt modes, controls, metrics and the report."""
