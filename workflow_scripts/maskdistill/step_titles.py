"""What people see of the names of a run's steps."""

STEP_TITLES = {
    "initial_masks": "Initial masks",
    "mask_rcnn": "Mask R-CNN",
    "segmentation": "Segmentation",
    "segmentation_crf": "Segmentation + CRF",
    "linear_probe": "Linear probe",
    "linear_probe_crf": "Linear probe + CRF",
}


def step_title(name: str) -> str:
    """A step's name for people."""
    if name in STEP_TITLES:
        return STEP_TITLES[name]
    base = name.removesuffix("_crf")
    return base.replace("_", " ").capitalize() + (" + CRF" if base != name else "")
