"""Every architecture of the installed transformers, compiled and compared with transformers."""
