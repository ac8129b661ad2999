"""One step of training: zofx beside public trainers and plain inference; see README.md."""
