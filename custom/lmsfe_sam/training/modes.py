"""What a validation prompts with."""

VALIDATION_MODES = ("box", "point", "none")
"""Prompts that a validation can use: the tight box, the click farthest from the border, nothing."""
