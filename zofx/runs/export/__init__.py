"""Ways out of an artifact: what other tools load, made of it and of one of its runs."""
