"""zofx beside the public trainers of its methods; see README.md."""
