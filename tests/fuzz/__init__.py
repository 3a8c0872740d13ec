"""Damaged and absurd inputs of every kind: each must end in a result or in one line for the user.

`python -m fuzz --minutes 10` with `tests` on the path (or `make fuzz MINUTES=10`) tries new ones.
"""
