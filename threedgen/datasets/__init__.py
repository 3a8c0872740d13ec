"""Data: the procedural shape world, and the two common multi-view folder layouts."""
