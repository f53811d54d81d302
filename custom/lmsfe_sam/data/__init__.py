"""Ultrasound data: from a data folder to the batches of training and evaluation."""
