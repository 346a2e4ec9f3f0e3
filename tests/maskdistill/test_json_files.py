from workflow_scripts.maskdistill.json_files import leaves


def test_leaves_of_a_tree_have_dotted_names():
    tree = {"a": {"b": 1, "c": {"d": [2]}, "e": {}}, "f": None}
    assert list(leaves(tree)) == [("a.b", 1), ("a.c.d", [2]), ("a.e", {}), ("f", None)]
