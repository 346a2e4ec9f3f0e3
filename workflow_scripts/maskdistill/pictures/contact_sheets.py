"""Pictures that help to name clusters: their typical masks, and their masks near other clusters."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from workflow_scripts.maskdistill.files.coco_json import category_name
from workflow_scripts.maskdistill.pictures import fonts

CROP = 128  # side of a crop, in pixels
GAP = 4
COLUMNS = 8
HEADING = 30  # height of a line of text, in pixels


def sheet(sections: Mapping[str, Sequence[np.ndarray]], title: str) -> np.ndarray:
    """Draw the crops of one cluster in one picture, section by section.

    Args:
        sections: heading → crops of CROP x CROP x 3 uint8.

    Returns:
        H x W x 3 uint8, COLUMNS crops wide.
    """
    rows = {name: -(-len(found) // COLUMNS) for name, found in sections.items()}
    width = GAP + COLUMNS * (CROP + GAP)
    height = HEADING * (1 + len(sections)) + sum(rows.values()) * (CROP + GAP) + GAP
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    fonts.write(draw, (GAP, 5), title, "black", 18, room=width - 2 * GAP)
    top = HEADING
    for name, found in sections.items():
        fonts.write(draw, (GAP, top + 8), name, "#5c6670", 14, room=width - 2 * GAP)
        top += HEADING
        for number, crop in enumerate(found):
            row, column = divmod(number, COLUMNS)
            at = (GAP + column * (CROP + GAP), top + row * (CROP + GAP))
            picture.paste(Image.fromarray(crop), at)
        top += rows[name] * (CROP + GAP)
    return np.asarray(picture)


def template(seed: int, digest: str, sizes: Sequence[int]) -> str:
    """A template of the file that names clusters, which has no effect until it is edited.

    Args:
        digest: see `cluster_files.assignments_digest`.
        sizes: numbers of masks of clusters 1, 2, …
    """
    lines = [
        "# Look at the contact sheets, name the clusters, and save this as",
        "# config/names/DATASET.yaml. Clusters with the same name are merged. A cluster named",
        "# `background` counts as background. Clusters without a line keep their names.",
        "seeds:",
        f"  {seed}:",
        "    # Identifies the clusters that the contact sheets show. If the run finds others, it",
        "    # stops and says so.",
        f'    assignments: "{digest}"',
        "    clusters:",
    ]
    lines += [
        f"      {cluster}: {category_name(cluster)}  # {size} mask{'' if size == 1 else 's'}"
        for cluster, size in enumerate(sizes, start=1)
    ]
    return "\n".join(lines) + "\n"
