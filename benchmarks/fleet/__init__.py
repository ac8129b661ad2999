"""What a fleet costs and wins on one machine."""
