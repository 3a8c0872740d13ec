"""A pipeline folder and its parts, read without running code from it."""
