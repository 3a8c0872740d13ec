"""Adapters: one module for each kind of diffusers pipeline, which calls its network."""
