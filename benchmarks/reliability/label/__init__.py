"""Bad requests to the annotation server, kind by kind."""
