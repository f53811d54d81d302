"""Training: the options, the losses, the prompted iteration and the handlers that the configs name."""
