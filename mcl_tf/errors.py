"""The errors that end a run in one line."""


class UsageError(ValueError):
    """Bad input: one line that says what was received and what is possible. The command line exits with 2."""


class Stopped(RuntimeError):
    """A training that had to leave before its end and can be gone on with; `code` is the exit code.

    128 + n after signal n, 3 where another worker was lost.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code
