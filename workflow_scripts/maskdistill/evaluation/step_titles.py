"""Names of the evaluated steps, i.e. stages with label maps, and their displayed titles."""

from collections.abc import Iterable

STEP_TITLES = {
    "initial_masks": "Initial masks",
    "mask_rcnn": "Mask R-CNN",
    "confident_masks": "Confident masks",
    "segmentation": "Segmentation",
    "segmentation_crf": "Segmentation + CRF",
    "linear_probe": "Linear probe",
    "linear_probe_crf": "Linear probe + CRF",
}


# Steps whose label maps show the confident candidates. Each run has one of them: the first if its
# candidates come from Mask R-CNN, the second if they are the initial masks.
CANDIDATE_STEPS = ("mask_rcnn", "confident_masks")


def candidate_step(steps: Iterable[str]) -> str | None:
    """The step of `CANDIDATE_STEPS` that is among the steps of a run; None if there is none."""
    return next((step for step in steps if step in CANDIDATE_STEPS), None)


def step_in_round(name: str, number: int) -> str:
    """Name of a step in a CRF round: `name` in round 0, `name_round_2` in round 2."""
    return f"{name}_round_{number}" if number else name


def step_title(name: str) -> str:
    """The displayed title of a step."""
    if name in STEP_TITLES:
        return STEP_TITLES[name]
    base = name.removesuffix("_crf")
    return base.replace("_", " ").capitalize() + (" + CRF" if base != name else "")
