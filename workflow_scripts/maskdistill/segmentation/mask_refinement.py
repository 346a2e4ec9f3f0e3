"""Refinement of initial masks by the same kind of CRF that refines label maps."""

import functools

from workflow_scripts.maskdistill.discovery.mask_pixels import CRF, Refiner
from workflow_scripts.maskdistill.segmentation import dense_crf
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings


def mask_refiner(settings: MaskSettings) -> Refiner | None:
    """The function that refines masks as `settings.refinement` says; None if it is "none"."""
    if settings.refinement == "none":
        return None
    return functools.partial(dense_crf.refine, settings=CRF)
