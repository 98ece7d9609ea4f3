"""What a user can put right: the command line prints these in one line, without a traceback."""


class BenchError(Exception):
    """A wrong name, a missing data set, a directory that holds something else; the message says what to do."""
