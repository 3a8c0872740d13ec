"""Frozen diffusion models behind one contract (base.Prior), and priors in closed form for tests."""
