"""The version of the package, of the bundle and of the checkpoints' descriptions."""

__version__ = "0.1.0"
