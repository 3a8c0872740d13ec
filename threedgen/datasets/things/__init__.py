"""The world of things: named objects of a furniture catalogue and families of procedural ones, with captions."""
