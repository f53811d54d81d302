"""The endpoints of the annotation server."""
