"""Families of procedural things, one module each, with a table CLASSES of its `ThingClass`es by word."""
