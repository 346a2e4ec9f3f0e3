"""The splits in the config of a dataset."""

from collections.abc import Mapping


def split_shards(config: Mapping, split: str) -> int:
    """The number of shards of a split; by default that of `train`."""
    shards = config["shards"]
    return shards.get(split, shards["train"]) if isinstance(shards, Mapping) else shards


def evaluated_split(config: Mapping) -> str:
    """The split that is predicted and evaluated: `val` if there is one, else `train`."""
    return "val" if "val" in config["dataset"]["splits"] else "train"


def instance_split(config: Mapping) -> str:
    """The split for AP of masks: `instances`, or the evaluated one if there is none."""
    return "instances" if "instances" in config["dataset"]["splits"] else evaluated_split(config)


def is_downloaded(config: Mapping) -> bool:
    """Whether the workflow downloads this dataset instead of reading the user's copy."""
    name = config["dataset"]["download"]
    return name is not None and config["dataset"]["root"] == f"data/{name}"
