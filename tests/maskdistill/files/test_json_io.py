import itertools
import json

import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.json_io import leaves, read_entries


def test_entries_are_those_of_the_array_at_the_top(tmp_path):
    content = {"info": {"a": [9]}, "a": [{"b": 1.5, "c": "ü", "a": [7]}, 2, None], "d": [3]}
    (tmp_path / "file.json").write_text(json.dumps(content))
    for name in ("a", "d", "none"):
        found = list(read_entries(tmp_path / "file.json", name, remedy=""))
        assert found == content.get(name, [])


def test_entries_come_before_the_file_is_read_to_its_end(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"a": list(range(200_000))})[:-1])
    entries = read_entries(path, "a", remedy="write it again")
    assert list(itertools.islice(entries, 100)) == list(range(100))
    with pytest.raises(InputError, match=r"file\.json: not valid JSON \(.*\); write it again"):
        list(entries)
    with pytest.raises(InputError, match=r"none\.json: no such file; write it"):
        list(read_entries(tmp_path / "none.json", "a", remedy="write it"))


def test_leaves_of_a_tree_have_dotted_names():
    tree = {"a": {"b": 1, "c": {"d": [2]}, "e": {}}, "f": None}
    assert list(leaves(tree)) == [("a.b", 1), ("a.c.d", [2]), ("a.e", {}), ("f", None)]
