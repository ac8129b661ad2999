"""Tasks: prompts, data sets, objectives and metrics; no torch here."""
