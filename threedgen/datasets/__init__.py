"""Data sets: the procedural shape world, posed pictures on disk, and the files that users bring."""
