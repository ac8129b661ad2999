"""Files: whole or not at all, and read with one kind of error."""
