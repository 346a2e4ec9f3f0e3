from workflow_scripts.maskdistill.inspection import any_file


def describe(path, **options):
    """The description of what should be one group of files."""
    (group,) = any_file.expand(str(path))
    return "\n".join(any_file.describe(group, **options))


def row_of(text, name):
    """The cells of the table's row that begins with `name`."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name + "  ")]
    return line.strip()[len(name) :].split()
