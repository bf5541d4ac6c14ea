"""Errors that a person can act on."""


class UserError(Exception):
    """Bad input: the message names the file, field or id and the fix, in one or two lines.

    The command line prints it without a traceback and ends with exit code 2.
    """


class UnwritableError(UserError):
    """A file or folder cannot be written, which callers may do without."""
