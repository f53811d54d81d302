"""MONAI Label's folder of images and labels, its records, and checks of what is put into it."""
