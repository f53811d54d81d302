"""Files of weights: read safely, checked and fitted to a network."""
