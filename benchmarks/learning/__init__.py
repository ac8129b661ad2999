"""What a second of training teaches: accuracy on held-out examples against wall time."""
