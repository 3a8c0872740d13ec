"""Renderers: they turn a primitive and cameras into pictures.

This package defines what is computed; the package `backends` computes it.
"""
