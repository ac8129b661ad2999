"""From a checkpoint and options to an artifact."""
