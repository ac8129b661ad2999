"""Runs of an artifact: train, evaluate, resume. No torch."""
