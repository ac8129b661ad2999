"""The artifact: a compiled model as one folder, read without torch."""
