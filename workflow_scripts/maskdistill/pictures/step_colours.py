"""The colours of clusters in the pictures of a step."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from workflow_scripts.maskdistill.evaluation.confusion_matrix import UNMATCHED
from workflow_scripts.maskdistill.evaluation.matching import stored_mapping
from workflow_scripts.maskdistill.files import label_maps


@dataclass(frozen=True)
class StepColours:
    """Colours and classes of one step's clusters."""

    colours: np.ndarray  # (C + 1) x 3 uint8
    classes: list[str | None]  # C + 1 names of the matched classes


def step_colours(
    steps: Iterable[str], clusters: int, metrics: Mapping | None
) -> dict[str, StepColours]:
    """Colours of the clusters in every step; clusters merged by config/names count as one.

    Without ground truth a cluster has its own colour of VOC's palette. Otherwise it has the colour
    of the class that it is matched with in that step, so that predictions look like the ground
    truth; unmatched clusters have colours that no class has.

    Args:
        metrics: content of metrics.json of one seed, or None without ground truth.

    Returns:
        Step → colours.
    """
    numbers = np.arange(clusters + 1)
    if metrics is None:
        return dict.fromkeys(
            steps, StepColours(label_maps.colours(numbers), [None] * (clusters + 1))
        )
    names = metrics["class_names"]
    result = {}
    for step in steps:
        mapping = stored_mapping(metrics, step)
        # Unmatched clusters have the colours of labels that are larger than those of classes.
        labels = np.where(mapping == UNMATCHED, len(names) - 1 + numbers, mapping)
        classes = [None if m == UNMATCHED else names[m] for m in mapping]
        result[step] = StepColours(label_maps.colours(labels), classes)
    return result
