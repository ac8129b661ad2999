"""Damage, kills and full disks: what is tried, what is handled, what is lost."""
