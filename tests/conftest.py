"""Shared set-up: property tests without deadlines (timings here are not what is tested).

Their examples are the same in every run, so that a change is judged by what it changes. For new ones, which is how
to look for defects: pytest --hypothesis-profile=explore.
"""

from hypothesis import settings

settings.register_profile("threedgen", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=300)
settings.load_profile("threedgen")
