"""Renderers: a primitive seen by cameras becomes pictures.

What is computed is in this package, who computes it in `backends`.
"""
