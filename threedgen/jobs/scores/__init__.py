"""Scores that a finished run reports."""
