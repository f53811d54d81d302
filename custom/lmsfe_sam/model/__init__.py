"""The network: LMSFE-SAM's modules, presets and checkpoints."""
