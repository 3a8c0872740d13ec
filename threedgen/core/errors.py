"""The exception for bad input: the command line prints its message on one line and ends with exit code 2."""


class UserError(Exception):
    """Bad input. The message says on one line what is wrong and what to do."""
