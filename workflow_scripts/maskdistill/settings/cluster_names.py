"""Names that users give to clusters; clusters with the same name are one pseudo-class.

A file of names looks like this:

    seeds:
      0:                              # seed; each seed has other clusters
        assignments: 0123456789abcdef # digest of the clusters that were named; may be left out
        clusters:
          1: bird
          4: bird                     # merged with cluster 1
          2: background               # dropped
                                      # other clusters keep their names cluster_003, …
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.coco_json import category_name
from workflow_scripts.maskdistill.settings.checks import validate
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml
from workflow_scripts.maskdistill.settings.section import Section, matching

BACKGROUND = "background"
_Name = matching(
    r"[^:\x00-\x1f#]{1,80}",
    "A name has 1 to 80 characters. A colon is not allowed, because it separates the columns of "
    "lists of colours, nor is #.",
)
_Digest = matching("[0-9a-f]{16}", "Copy the digest from the template next to the contact sheets.")


class SeedNames(Section):
    """Names of the clusters of one seed."""

    assignments: _Digest = None  # digest of the named clusters; the run stops if it differs
    clusters: dict[Annotated[int, Field(ge=1, strict=False)], _Name]


class NamesFile(Section):
    """A file of names, config/names/DATASET.yaml."""

    seeds: dict[Annotated[int, Field(ge=0, strict=False)], SeedNames]


class Curation(NamedTuple):
    """The pseudo-classes of the clusters of one seed."""

    classes: list[int]  # pseudo-classes of clusters 1, 2, …: 1..K, or 0 for background
    names: list[str]  # names of pseudo-classes 1, 2, …


def curate(names: Mapping[int, str], clusters: int) -> Curation:
    """Pseudo-classes of named clusters, numbered by their first cluster.

    The numbers only depend on which clusters are merged and dropped.

    Args:
        names: cluster → name; clusters with equal names are merged, those with the name
            "background" are dropped, and those without a name are classes of their own.
        clusters: number of clusters C.

    Raises:
        InputError: a named cluster does not exist, or all are background.
    """
    if unknown := sorted(set(names) - set(range(1, clusters + 1))):
        raise InputError(f"there is no cluster {unknown[0]}; clusters are 1 to {clusters}")
    numbers: dict[str, int] = {BACKGROUND: 0}
    classes = [
        numbers.setdefault(names.get(cluster, category_name(cluster)), len(numbers))
        for cluster in range(1, clusters + 1)
    ]
    if len(numbers) == 1:
        raise InputError("all clusters are background; name at least one")
    return Curation(classes, list(numbers)[1:])


def read_names(path: Path) -> dict[int, dict]:
    """Read a file of names.

    Returns:
        seed → {"assignments": digest or None, "clusters": cluster → name}.

    Raises:
        InputError: the file is not a valid file of names.
    """
    content = validate(NamesFile, read_yaml(path), source=str(path))
    return {
        seed: {"assignments": names.assignments, "clusters": names.clusters}
        for seed, names in content.seeds.items()
    }


def curated(config: Mapping, names: Mapping[int, str]) -> dict:
    """A dataset's config for the stages after the clustering.

    In it, `clustering.clusters` is the number of pseudo-classes, and `curation` has `classes`
    (pseudo-classes of clusters 1, 2, …; null if no cluster is merged or dropped) and `names`.

    Args:
        names: cluster → name, see `curate`.

    Raises:
        InputError: names of clusters that do not exist.
    """
    clusters = config["clustering"]["clusters"]
    classes, found = curate(names, clusters)
    return merge(
        config,
        {
            "clustering": {"clusters": len(found)},
            "curation": {
                "classes": None if len(found) == clusters else classes,
                "names": found,
            },
        },
    )


def names_cautions(config: Mapping, names: Mapping[int, Mapping]) -> list[str]:
    """Warnings about probable mistakes in a file of names, one line each.

    Args:
        config: config of the dataset.
        names: result of `read_names`.
    """
    seeds = config["seeds"]
    cautions = [
        f"names of clusters of seed {seed} are not used: `seeds` of the dataset has only "
        f"{', '.join(map(str, seeds))}; correct the number in the file, or add the seed"
        for seed in names
        if seed not in seeds
    ]
    classes = {
        seed: curated(config, names.get(seed, {}).get("clusters", {}))["clustering"]["clusters"]
        for seed in seeds
    }
    if len(set(classes.values())) > 1:
        found = ", ".join(f"{count} in seed {seed}" for seed, count in classes.items())
        cautions.append(
            f"seeds have different numbers of classes after merging ({found}), so that scores "
            "averaged over seeds are not comparable; name the clusters of every seed, or set "
            "`seeds` to one of them"
        )
    return cautions
