"""The folders of the library are in the order in which CONTRIBUTING.md lists them."""

import re

from workflow_scripts.maskdistill.repository import REPOSITORY

LIBRARY = REPOSITORY / "workflow_scripts" / "maskdistill"
IMPORT = re.compile(
    r"^\s*from workflow_scripts\.maskdistill(?:\.(\w+)\S*)? import (\w+)", re.MULTILINE
)


def order() -> list[str]:
    """Folders and single modules of the library, from those that import nothing on."""
    table = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("| folder | holds |")[2]
    rows = re.findall(r"^\| (`.+`) \|", table, re.MULTILINE)
    return re.findall(r"`(\w+)/?`", " ".join(rows))


def test_no_import_runs_back_up() -> None:
    places = {name: place for place, name in enumerate(order())}
    back = []
    for path in sorted(LIBRARY.rglob("*.py")):
        room = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        for folder, name in IMPORT.findall(path.read_text()):
            imported = folder or name
            if imported != room and places[imported] > places[room]:
                back.append(f"{path.relative_to(LIBRARY)} imports {imported}")
    assert back == []


def test_every_folder_is_listed() -> None:
    found = {path.stem for path in LIBRARY.iterdir() if not path.name.startswith("__")}
    assert found == set(order())
    assert len(found) <= 25
