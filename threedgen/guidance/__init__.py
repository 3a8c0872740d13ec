"""Guidances: what a frozen prior, or a given picture, says about a render."""
