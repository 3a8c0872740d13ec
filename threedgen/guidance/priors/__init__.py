"""Frozen diffusion models behind one contract (base.Prior), and closed-form ones for tests."""
