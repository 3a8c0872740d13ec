"""A recipe becomes a run: built, run, handed over between stages, finished, exported, resumed."""
