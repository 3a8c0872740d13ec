"""Pages that show runs: one file of HTML each, which needs no network, no script and no other file."""
