"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake that the user can mend; the message names the file and line, option or stage, and what to do.

    The command line prints it as one line without a traceback and exits with code 2.
    """
