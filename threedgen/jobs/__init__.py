"""Runs: a recipe is built and run, its stages hand over, and the result is written, exported or resumed."""
