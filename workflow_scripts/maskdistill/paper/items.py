"""The paper's tables and figures that a run can make, and the displayed names of their parts.

An item is one table or figure of the paper, for instance `table_3`. It consists of one or more
tables, which are dictionaries as described in `tables.tables`.
"""

import re
from collections.abc import Mapping

from workflow_scripts.maskdistill.evaluation.step_titles import STEP_TITLES, step_title

TITLES = {
    "table_1": "Table 1: what each component adds",
    "table_s1": "Table S1: boxes, masks, segmentation",
    "table_2": "Table 2: clustering and linear protocol",
    "table_s2": "Table S2: IoU by class",
    "table_3": "Table 3: mask AP",
    "figure_3": "Figure 3: number of clusters",
    "figure_4": "Figure 4: share of patches that are proposals",
    "figure_5": "Figure 5: confidence threshold",
}
MATCHINGS = {"hungarian": "Hungarian matching", "supervised": "learned from labels"}
X_LABELS = {"figure_3": "clusters", "figure_4": "top-k", "figure_5": "τ"}
NAMES = {
    **STEP_TITLES,
    "dino": "DINO-seg",
    "lost": "LOST",
    "mask_rcnn_masks": "Mask R-CNN, masks",
    "mask_rcnn_boxes": "Mask R-CNN, boxes",
    "mask_rcnn_boxes_grabcut": "Mask R-CNN, boxes with GrabCut",
    "segmentation_without_hard_pixels": "Segmentation without hard-pixel mining",
}


def title_of(table: Mapping) -> str:
    """The displayed title of a table, which says so if there are more clusters than classes."""
    if "majority" in (table["matching"] or ""):
        return f"{table['title']} – overclustering, {table['matching']} matching"
    return table["title"]


def images_of(table: Mapping) -> str:
    """The evaluated images of a table, and the images on which its clusters were matched."""
    evaluated, matched = table["evaluated_on"], table["matched_on"]
    text = f"{evaluated['images']:,} images of “{evaluated['split']}”"
    if matched is None:
        return text
    if matched == evaluated:
        return f"{text}, matched on the same images"
    return f"{text}, matched on {matched['images']:,} of “{matched['split']}”"


def name_of(name: str) -> str:
    """The displayed name of a row or a column; classes and numbers are not changed."""
    if re.search(r"_round_\d+", name):
        return step_title(name)
    return NAMES.get(name, name)
