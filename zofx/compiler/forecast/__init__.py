"""Memory and time of a training step, computed from the program before a weight is read."""
