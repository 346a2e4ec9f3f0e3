"""What the config of a dataset says of its splits."""

from collections.abc import Mapping


def split_shards(config: Mapping, split: str) -> int:
    """The number of shards of a split; one that `shards` does not name has those of `train`."""
    shards = config["shards"]
    return shards.get(split, shards["train"]) if isinstance(shards, Mapping) else shards


def evaluated_split(config: Mapping) -> str:
    """The split that predictions are made and judged on: `val` where there is one."""
    return "val" if "val" in config["dataset"]["splits"] else "train"


def instance_split(config: Mapping) -> str:
    """The split that AP of masks is measured on: `instances`, else the evaluated one."""
    return "instances" if "instances" in config["dataset"]["splits"] else evaluated_split(config)


def is_downloaded(config: Mapping) -> bool:
    """Whether the workflow downloads this dataset, rather than reading a copy of the user's."""
    name = config["dataset"]["download"]
    return name is not None and config["dataset"]["root"] == f"data/{name}"
