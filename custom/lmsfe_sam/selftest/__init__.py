"""Test an installation: ``python -m lmsfe_sam.selftest``."""
