"""Objects and detections that are rectangles in small images."""

import numpy as np

from workflow_scripts.maskdistill.data.ground_truth import Instance
from workflow_scripts.maskdistill.evaluation import object_scores

SIZE = (40, 50)


def rectangle(x, y, width, height):
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def annotation(image_id, box, class_id=1, crowd=False):
    (entry,) = object_scores.objects_of_image(
        image_id, [Instance(rectangle(*box), class_id, crowd)]
    )
    return entry


def detection(image_id, box, score, cluster=1):
    entry = annotation(image_id, box, cluster)
    return {k: v for k, v in entry.items() if k not in ("iscrowd", "area")} | {"score": score}
