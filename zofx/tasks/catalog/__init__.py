"""The tasks that have a name, and tasks from .jsonl files."""
