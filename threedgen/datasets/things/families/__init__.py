"""Families of procedural things, one module each; every module has a table CLASSES of its `ThingClass`es by word."""
