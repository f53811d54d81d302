"""Files that inference writes: label maps, pictures, and the formats of other programs."""
