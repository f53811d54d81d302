"""From an image and prompts to masks, without MONAI: the predictor, windows, zoom and post-processing."""
