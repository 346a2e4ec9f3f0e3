"""The names of a run's steps, and what people see of them."""

STEP_TITLES = {
    "initial_masks": "Initial masks",
    "mask_rcnn": "Mask R-CNN",
    "segmentation": "Segmentation",
    "segmentation_crf": "Segmentation + CRF",
    "linear_probe": "Linear probe",
    "linear_probe_crf": "Linear probe + CRF",
}


def of_round(name: str, number: int) -> str:
    """The name of a step of one model in a CRF round, from 0: `name`, or `name_round_2`."""
    return f"{name}_round_{number}" if number else name


def step_title(name: str) -> str:
    """A step's name for people."""
    if name in STEP_TITLES:
        return STEP_TITLES[name]
    base = name.removesuffix("_crf")
    return base.replace("_", " ").capitalize() + (" + CRF" if base != name else "")
