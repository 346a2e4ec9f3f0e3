"""Variants of a run for the ablations: what each changes, and which stages it computes itself.

For stages before the first one that it computes itself, a variant reads the files of the main run.
A variant never changes files of the main run.
"""

from collections.abc import Mapping
from typing import NamedTuple

MAIN = "main"  # the dataset's own run; a sweep over a setting uses it for the configured value
STAGES = ("masks", "clusters", "candidates", "confident", "segmentation")
# Item of the paper → the section and the key that it sweeps, and the stage that reads the key.
SWEEPS = {
    "figure_3": ("clustering", "clusters", "clusters"),
    "figure_4": ("masks", "top_k", "masks"),
    "figure_5": ("confidence", "threshold", "confident"),
}
ITEMS = ("table_1", "table_s1", "table_2", "table_s2", "table_3", *SWEEPS)
OF_OBJECTS = ("table_3", "figure_3", "figure_4")  # items that are measured against objects
BASELINES = ("dino_seg", "lost")


class Variant(NamedTuple):
    """The settings that a variant changes, and the first stage that it computes itself."""

    changes: Mapping  # settings that override the dataset's config
    first: str  # the first of `STAGES` with files of its own


def variants(config: Mapping) -> dict[str, Variant]:
    """All variants of a dataset by name.

    Args:
        config: complete config of the dataset.
    """
    found = {name: Variant({}, "masks") for name in BASELINES}
    found["boxes"] = Variant({}, "segmentation")
    found["all_pixels"] = Variant({"segmentation": {"hardest_fraction": 1}}, "segmentation")
    ablations = config["evaluation"]["ablations"]
    for name, changes in ablations["masks"].items():
        found[f"masks-{name}"] = Variant({"masks": changes}, "masks")
    for section, key, stage in SWEEPS.values():
        for value in ablations[key]:
            found[f"{key}-{value}"] = Variant({section: {key: value}}, stage)
    return found


def sweep(item: str, config: Mapping) -> dict[float, str]:
    """Value → name of its variant, in rising order, or `MAIN` for the value of the run itself."""
    section, key, _ = SWEEPS[item]
    return {
        value: MAIN if value == config[section][key] else f"{key}-{value}"
        for value in sorted(config["evaluation"]["ablations"][key])
    }


def has_own(variant: Variant, stage: str) -> bool:
    """Whether a variant has files of its own in a stage, one of `STAGES`."""
    return STAGES.index(stage) >= STAGES.index(variant.first)
