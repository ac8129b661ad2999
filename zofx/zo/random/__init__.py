"""Directions from keys: a counter-based generator and the distributions on it."""
