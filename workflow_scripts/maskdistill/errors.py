"""The exception for mistakes that the user can correct, and names in messages of one line."""


class InputError(ValueError):
    """Bad input of the user: a file, a setting or a checkpoint.

    The message is a single line that names what is wrong and how to correct it; programs print it
    without a traceback.
    """


def printable(name: str) -> str:
    """A file name for a line of text: with escapes if it has line breaks or the like."""
    return name if name.isprintable() else repr(name)
