"""A pipeline folder and its parts, which are loaded without running code from it."""
