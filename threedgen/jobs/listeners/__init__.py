"""Listeners of a run: progress display, metrics, previews, checkpoints, interruption and warnings.

The loop only emits events; it does not know who listens.
"""
