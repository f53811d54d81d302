"""Image files of every format: names, headers, pixels, frames, scale."""
