"""If a key of the config changes, Snakemake runs exactly the rules that depend on it.

tests/maskdistill/test_read_settings.py proves that each rule declares the settings that its program
reads. The tests here find, for every key, the rules that declare it. Snakemake's plan for a
finished run must then have exactly these rules and all rules that use their output.
"""

import copy
import re
from collections.abc import Iterator, Mapping

import pytest

from tests.rules.conftest import REPOSITORY, Workflow, following
from workflow_scripts.maskdistill.files.json_io import leaves
from workflow_scripts.maskdistill.runs.declared_settings import declared_settings
from workflow_scripts.maskdistill.settings.cluster_names import curated
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml

pytestmark = pytest.mark.workflow
DEFAULTS = merge(
    read_yaml(REPOSITORY / "config" / "default.yaml")["defaults"],
    {"dataset": {"splits": {"train": "train"}}},
)
DEMO = read_yaml(REPOSITORY / "config" / "datasets" / "demo.yaml")
DECLARED = declared_settings(REPOSITORY)
SCHEMA = read_yaml(REPOSITORY / "config" / "schemas" / "dataset.schema.yaml")
# Keys that also change which jobs there are; tests/rules/test_staleness.py tests them.
SHAPES_THE_PLAN = re.compile(
    r"shards|seeds|store_features|crf\.(enabled|rounds)|clustering\.support"
    r"|mask_rcnn\.enabled|segmentation\.model"
    r"|evaluation\.(objects|linear_probe\.enabled|ablations\..*)|exports\.formats"
)
# Other values for keys for which no valid value can be derived from the schema.
ALTERNATIVES = {
    "features.weights": "other.pth",
    "embedding.weights": "other.pth",
    "mask_rcnn.weights": "other.pth",
    "segmentation.weights": "other.pth",
    "features.backbone": "vit_small_patch16_224",
    "features.backbone_options": {"depth": 3},
    "embedding.backbone": "resnet18",
    "embedding.backbone_options": {"layers": [2, 1, 1, 1]},  # demo.yaml has [1, 1, 1, 1]
    "masks.heads": [0],
    "exports.weights_licence": "CC0-1.0",
    "segmentation.scale": [0.25, 4],
}
# Keys whose value must fit to other keys, so that they cannot be changed alone.
NOT_ALONE = {
    "embedding.backbone",
    "mask_rcnn.anchor_sizes",
    "mask_rcnn.engine",
    "mask_rcnn.fpn",
    "mask_rcnn.frozen_stages",
    "segmentation.frozen_stages",
}


def keys() -> list[str]:
    """The dotted name of every key of the config's stages."""
    return [key for key, _ in leaves(DEFAULTS) if not key.startswith("dataset.")]


def alternative(key: str, value: object) -> object:
    """Another value that the schema allows."""
    if key in ALTERNATIVES:
        return ALTERNATIVES[key]
    node = SCHEMA
    for part in key.split("."):
        node = node["properties"][part]
    if "$ref" in node:
        node = {**node, **SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]}
    if "enum" in node:
        return next(found for found in node["enum"] if found != value)
    if isinstance(value, bool):
        return not value
    if not value and isinstance(value, list):
        return ["demo"]
    if isinstance(value, list) and isinstance(value[-1], str):
        return value[:-1]
    if isinstance(value, list):
        return [*value[:-1], alternative_number(value[-1], node["items"])]
    if value is None or value == "auto":  # these keys also allow a number
        return 7
    return alternative_number(value, node)


def alternative_number(value: float, node: Mapping) -> float:
    """Another number within the bounds of a schema."""
    if isinstance(value, int) and node.get("type") != "number" and "share" not in str(node):
        return value + 1
    return value / 2 if value else 0.25


def changed(settings: Mapping, key: str) -> dict:
    """The settings with another value for one key."""
    section = copy.deepcopy(dict(settings))
    *parents, last = key.split(".")
    node = section
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = alternative(key, node.get(last, dict(leaves(DEFAULTS)).get(key)))
    return section


def reached(before: Mapping, key: str) -> frozenset[str]:
    """The rules whose declared settings contain a key."""
    after = changed(before, key)
    return frozenset(
        rule
        for rule, declared in DECLARED.items()
        if declared.select(before, split="train") != declared.select(after, split="train")
    )


def groups() -> Iterator[tuple[frozenset[str], list[str]]]:
    """Pairs of a set of rules and all keys that exactly these rules declare."""
    found: dict[frozenset[str], list[str]] = {}
    for key in keys():
        if not SHAPES_THE_PLAN.fullmatch(key) and key not in NOT_ALONE:
            found.setdefault(reached(DEFAULTS, key), []).append(key)
    yield from found.items()


def test_every_key_reaches_a_rule_or_is_said_to_reach_none() -> None:
    unread = {key for key in keys() if not reached(DEFAULTS, key)}
    # No rule declares these keys: they are used when the workflow is planned, or only decide
    # whether a job fails.
    assert unread == {
        "images.max_rejected",
        "images.max_rejected_count",
        "exports.formats",
        *(key for key in keys() if key.startswith("evaluation.ablations.")),
    } - {"evaluation.ablations.dino_seg_mass", "evaluation.ablations.lost_patches"}


def test_curation_is_the_same_for_all_that_come_after_the_clustering() -> None:
    config = curated(DEFAULTS, {1: "a", 2: "a"})
    assert config["clustering"]["clusters"] == DEFAULTS["clustering"]["clusters"] - 1


@pytest.mark.parametrize(
    ("rules", "key"),
    [(rules, found[0]) for rules, found in groups()],
    ids=[found[0] for _, found in groups()],
)
def test_the_plan_is_what_the_key_reaches(
    finished: Workflow, successors: dict, rules: frozenset, key: str
) -> None:
    """One key is tested of all that the same rules declare; `every_key` below tests all keys."""
    check(finished, successors, rules, key)


@pytest.mark.every_key
def test_the_plan_of_every_key(finished: Workflow, successors: dict) -> None:
    for rules, found in groups():
        for key in found:
            check(finished, successors, rules, key)


def check(finished: Workflow, successors: dict, rules: frozenset, key: str) -> None:
    """Change a key, and compare Snakemake's plan with the rules that depend on the key."""
    (finished.directory / "other.pth").write_bytes(b"")
    whole = merge(DEFAULTS, DEMO, finished.overrides)
    overrides = merge(finished.overrides, difference(whole, changed(whole, key)))
    assert set(finished.stale("all", overrides=overrides)) == following(rules, successors), key


def difference(before: Mapping, after: Mapping) -> dict:
    """The part of `after` that is not in `before`, or has another value there."""
    return {
        key: difference(before[key], value)
        if isinstance(value, Mapping) and isinstance(before.get(key), Mapping) and before[key]
        else value
        for key, value in after.items()
        if before.get(key) != value
    }
