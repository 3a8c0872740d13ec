"""The one exception that means "the user can fix this": the CLI prints it as one line, exit code 2."""


class UserError(Exception):
    """Bad input. The message says, in one line, what is wrong and what to do."""
