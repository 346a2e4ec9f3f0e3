"""The keys and rules in the profiles exist; Snakemake would ignore misspelt ones."""

import re

import pytest
import yaml
from snakemake.cli import get_argument_parser
from snakemake_executor_plugin_slurm.partitions import read_partition_file

from tests.rules.conftest import REPOSITORY, rules

PROFILES = sorted((REPOSITORY / "profiles").glob("*/config.yaml"))
SLURM = REPOSITORY / "profiles" / "slurm" / "config.yaml"
BY_RULE = ("set-threads", "set-resources", "groups")


class UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key that is given twice; PyYAML would use the last one."""

    def construct_mapping(self, node, deep=False):
        """Check that the keys of a mapping differ, and read it."""
        names = [key.value for key, _ in node.value]
        assert len(names) == len(set(names)), f"twice in {names}"
        return super().construct_mapping(node, deep)


def edited() -> str:
    """The SLURM profile after a user has removed the "# " of all optional settings."""
    text = SLURM.read_text()
    head, block, tail = re.split(r" *# --- (?:Your|End of your) cluster.*\n", text)
    # Settings are commented out by "# ". Comments that explain them do not match this pattern.
    block = re.sub(r"^( *)# (- \w+=|slurm-|set-|  )", r"\1\2", block, flags=re.MULTILINE)
    return head + block + tail


@pytest.mark.parametrize(
    "text",
    [*(path.read_text() for path in PROFILES), edited()],
    ids=[*(path.parent.name for path in PROFILES), "slurm, edited"],
)
def test_profiles_name_only_known_options_and_rules(text: str) -> None:
    known = {
        option.lstrip("-")
        for action in get_argument_parser([])._actions
        for option in action.option_strings
    }
    profile = yaml.load(text, UniqueKeys)
    assert set(profile) <= known
    for key in BY_RULE:
        assert set(profile.get(key, {})) <= set(rules())


def test_what_is_to_be_edited_is_where_it_belongs() -> None:
    plain, profile = (yaml.load(text, UniqueKeys) for text in (SLURM.read_text(), edited()))
    signal = plain["default-resources"]
    assert signal == ['slurm_extra="--signal=TERM@120"']
    names = [entry.partition("=")[0] for entry in profile["default-resources"]]
    assert names == ["slurm_extra", "slurm_account", "slurm_partition", "qos", "constraint"]
    assert set(profile) - set(plain) == {"slurm-partition-config", "set-resources"}
    assert profile["set-resources"] == {"train_mask_rcnn": {"constraint": "h100"}}
    partitions = read_partition_file(SLURM.parent / profile["slurm-partition-config"])
    assert [bool(partition.limits.max_gpu) for partition in partitions] == [False, True]


def test_the_literal_profile_is_a_link() -> None:
    assert (REPOSITORY / "slurm").resolve() == SLURM.parent


@pytest.mark.parametrize("name", rules())
def test_every_rule_states_what_it_needs(name: str) -> None:
    text = rules()[name]
    assert re.search(r"\n    threads: \S", text)
    assert re.search(r"\n        mem_mb=attempts\(", text)
    assert re.search(r"\n        runtime=attempts\(", text)
    assert ("{DEVICE}" in text) == bool(re.search(r"\n        gpu=\w*GPUS,", text))
    assert "retries" not in text
    assert "array" not in text
    assert "group:" not in text
