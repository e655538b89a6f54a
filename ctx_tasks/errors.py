"""The exception for a mistake the user can mend."""


class UserError(ValueError):
    """A wrong input, told in one sentence: the value received, what is allowed, the next step.

    The command lines print the sentence alone, without a traceback, and exit with code 2.
    """
