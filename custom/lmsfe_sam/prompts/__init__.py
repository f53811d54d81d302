"""Prompts: made from masks, given by users, passed to the network."""
