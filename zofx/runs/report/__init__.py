"""Runs as a page: what was asked, how it went, what came of it, side by side."""
