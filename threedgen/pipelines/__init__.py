"""One file a task, callable from Python: text to 3D, picture to 3D, text to 4D, fitting."""
