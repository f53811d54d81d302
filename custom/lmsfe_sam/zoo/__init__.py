"""Package the bundle together with this package as one folder, check it and publish it."""
