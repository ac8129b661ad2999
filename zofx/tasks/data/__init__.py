"""Records of a task: where they come from, how they are split and ordered."""
