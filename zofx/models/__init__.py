"""Checkpoints in: locate, read and trace a Hugging Face model; checkpoints out."""
