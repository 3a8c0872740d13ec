"""Shared set-up: property tests without deadlines (timings here are not what is tested)."""

from hypothesis import settings

settings.register_profile("threedgen", deadline=None, max_examples=30)
settings.load_profile("threedgen")
