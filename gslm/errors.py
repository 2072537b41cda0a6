"""Errors that a user can cause and can mend."""


class UserError(Exception):
    """A mistake in input or settings, told in one line: what, where, and what to do.

    The command line prints the message and exits with code 2; a traceback is only for bugs.
    """


class CannotWriteError(UserError):
    """Results cannot be written, as on a full disk: going on to the next input would not help."""
