"""Representations: the parameters that are optimised, and the primitives that renderers draw of them."""
