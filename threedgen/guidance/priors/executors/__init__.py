"""Executors compute the passes of a frozen network: by calling it, which is the reference, or as a graph."""
