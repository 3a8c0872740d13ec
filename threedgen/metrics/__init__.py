"""Measures of pictures, sets of pictures, assets and motions. Each states its units and its range."""
