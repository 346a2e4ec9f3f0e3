"""Names that people give to clusters; clusters of one name are one pseudo-class.

A file of names looks like this, and is checked against config/schemas/names.schema.yaml:

    seeds:
      0:                              # k-means numbers its clusters anew with every seed
        assignments: 0123456789abcdef # which clusters were looked at; may be left out
        clusters:
          1: bird
          4: bird                     # merged with cluster 1
          2: background               # dropped
                                      # the others keep the names cluster_003, …
"""

from collections.abc import Mapping
from typing import NamedTuple

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.coco_json import category_name

BACKGROUND = "background"


class Curation(NamedTuple):
    """What the clusters of one seed stand for."""

    classes: list[int]  # of cluster 1, 2, …: its pseudo-class 1..K, or 0 for background
    names: list[str]  # of pseudo-class 1, 2, …


def curate(names: Mapping[int, str], clusters: int) -> Curation:
    """Pseudo-classes of named clusters, numbered by their first cluster.

    A change of names that merges and drops the same clusters changes no number.

    Args:
        names: cluster → name; equal names merge, "background" drops, the rest keep their own.
        clusters: C.

    Raises:
        InputError: there is no such cluster, or all are background.
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
