"""One file a kind of diffusers pipeline: how it is asked."""
