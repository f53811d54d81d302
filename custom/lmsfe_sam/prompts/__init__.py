"""Prompts: made from masks, read from users, handed to the network."""
