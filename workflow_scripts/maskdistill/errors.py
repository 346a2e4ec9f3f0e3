"""The exception for mistakes that the user can correct."""


class InputError(ValueError):
    """Bad input of the user: a file, a setting or a checkpoint.

    The message is a single line that names what is wrong and how to correct it; programs print it
    without a traceback.
    """
