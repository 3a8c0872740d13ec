"""Measures of pictures and assets; each states its units and its range."""
