"""The one exception that means: the input is at fault, and here is what to do about it."""


class InputError(ValueError):
    """Bad input of the user: a file, a setting or a checkpoint.

    The message is a single line that names the culprit and the remedy; command-line tools print
    it without a traceback.
    """
