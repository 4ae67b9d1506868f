"""The error that a user caused and can mend."""


class UsageError(ValueError):
    """Bad input: one line that says what was received and what is possible. The command line exits with 2."""
