"""The exceptions that stand for a mistake of the user: in options and files, or in a dataset's content."""


class UserError(Exception):
    """A mistake that the user can mend; the message names the file and line, option or stage, and what to do.

    The command line prints it as one line without a traceback and exits with code 2.
    """


class DataError(UserError):
    """A dataset whose content is wrong; the message begins with "file:line" (Parquet and hub: "file:row n").

    The readers and layouts of data_modules raise nothing else, whatever a file holds.
    """
