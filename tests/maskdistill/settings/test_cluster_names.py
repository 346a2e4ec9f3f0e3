import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings import cluster_names


def test_without_names_every_cluster_is_a_class():
    found = cluster_names.curate({}, 3)
    assert found.classes == [1, 2, 3]
    assert found.names == ["cluster_001", "cluster_002", "cluster_003"]


def test_equal_names_merge_and_background_drops():
    found = cluster_names.curate({1: "bird", 2: "background", 4: "bird"}, 5)
    assert found.classes == [1, 0, 2, 1, 3]
    assert found.names == ["bird", "cluster_003", "cluster_005"]


def test_other_names_for_the_same_groups_change_no_number():
    first = cluster_names.curate({1: "a", 3: "a"}, 4)
    second = cluster_names.curate({1: "z", 3: "z", 2: "y"}, 4)
    assert first.classes == second.classes


@pytest.mark.parametrize(
    ("names", "message"),
    [({5: "a"}, "no cluster 5; clusters are 1 to 4"), (dict.fromkeys(range(1, 5), "background"),
     "all clusters are background")],
)  # fmt: skip
def test_names_that_do_not_fit(names, message):
    with pytest.raises(InputError, match=message):
        cluster_names.curate(names, 4)


GOOD = """
seeds:
  0:
    assignments: "0123456789abcdef"
    clusters: {1: bird, 4: 'Vogel, groß'}
  3:
    clusters: {}
"""


def test_a_file_of_names(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD, encoding="utf-8")
    assert cluster_names.read_names(tmp_path / "a.yaml") == {
        0: {"assignments": "0123456789abcdef", "clusters": {1: "bird", 4: "Vogel, groß"}},
        3: {"assignments": None, "clusters": {}},
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds:", "seed:", "unknown key 'seed', did you mean 'seeds'"),
        ("    clusters: {}", "    cluster: {}", "unknown key 'seeds.3.cluster'"),
        ("  3:", "  three:", "three"),
        ("bird", "7", "clusters.1: 7 should be a valid string"),
        ("bird", "'a:b'", "does not match"),
        ("{1:", "{0:", "0 should be greater than"),
        ("0123456789abcdef", "012", "does not match"),
    ],
)
def test_a_mistake_in_it_is_one_clear_line(tmp_path, old, new, message):
    (tmp_path / "a.yaml").write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        cluster_names.read_names(tmp_path / "a.yaml")
    assert "a.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_are_not_used_and_seeds_that_are_merged_differently():
    settings = {"seeds": [0, 1], "clustering": {"clusters": 4}}
    named = {"assignments": None, "clusters": {1: "bird", 2: "bird"}}
    assert cluster_names.names_cautions(settings, {}) == []
    assert cluster_names.names_cautions(settings, {0: named, 1: named}) == []
    only_words = {"assignments": None, "clusters": {1: "bird"}}
    assert cluster_names.names_cautions(settings, {0: only_words}) == []
    (caution,) = cluster_names.names_cautions(settings, {0: named, 1: named, 7: named})
    assert "clusters of seed 7 are not used: `seeds` of the dataset has only 0, 1" in caution
    (caution,) = cluster_names.names_cautions(settings, {0: named})
    assert "(3 in seed 0, 4 in seed 1)" in caution
