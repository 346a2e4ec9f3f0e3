"""What the gallery shows of each stage: label maps, colours, and IoU with the ground truth."""

from collections.abc import Mapping, Sequence

import numpy as np

from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.evaluation import confusion_matrix
from workflow_scripts.maskdistill.evaluation.matching import stored_mapping
from workflow_scripts.maskdistill.evaluation.step_titles import candidate_step, step_title
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.files.coco_json import category_name
from workflow_scripts.maskdistill.gallery.stage_files import GalleryInputs, Record
from workflow_scripts.maskdistill.pictures import drawing, overlays
from workflow_scripts.maskdistill.pictures.step_colours import StepColours, step_colours

MASKS, CANDIDATES, GROUND_TRUTH = "masks", "candidates", "ground_truth"
TITLES = {MASKS: "Initial masks", CANDIDATES: "Candidates", GROUND_TRUTH: "Ground truth"}


class Stages:
    """Label maps, colours and names of all stages; ground truth is read if there are metrics.

    Raises:
        InputError: labels are missing or damaged.
    """

    def __init__(self, inputs: GalleryInputs) -> None:
        self._inputs = inputs
        self._clusters = inputs.settings["clustering"]["clusters"]
        steps = {step: None for by_step in inputs.steps.values() for step in by_step}
        scored = inputs.metrics["steps"] if inputs.metrics else {}
        own = step_colours(["own"], self._clusters, None)["own"]
        matched = step_colours(
            [s for s in (*steps, "initial_masks") if s in scored], self._clusters, inputs.metrics
        )
        self._colours: dict[str, StepColours] = {
            MASKS: matched.get("initial_masks", own),
            CANDIDATES: matched.get(candidate_step(scored), own),
        } | {step: matched.get(step, own) for step in steps}
        self._mappings = {step: stored_mapping(inputs.metrics, step) for step in scored}
        self._truth = None
        self.evaluated: str | None = None  # the split with ground truth
        # How clusters were matched with classes: split and number of the images, and methods.
        self.matched: dict | None = None
        if inputs.metrics:
            methods = {step["matching"]["method"] for step in scored.values()}
            self.matched = {
                "split": inputs.metrics["split"],
                "images": inputs.metrics["images"],
                "methods": sorted(methods),
            }
            self.evaluated = inputs.metrics["split"]
            self._truth = GroundTruth(inputs.settings["dataset"], inputs.root, self.evaluated)
            names = ["background", *self._truth.class_names]
            self._colours[GROUND_TRUTH] = StepColours(
                label_maps.colours(np.arange(len(names))), names
            )

    def __iter__(self):
        return iter(self._colours)

    def colours(self, stage: str) -> np.ndarray:
        """Label → colour, N x 3 uint8; black for clusters matched with background."""
        return self._colours[stage].colours

    def layers(self, record: Record) -> dict[str, np.ndarray]:
        """Stage → H x W label map of an image, in the order of the stages."""
        size = (record.image["height"], record.image["width"])
        result = {}
        if record.split in self._inputs.masks:
            result[MASKS] = self._paint(size, record.masks)
        if record.split in self._inputs.candidates:
            # All candidates, not only the confident ones.
            result[CANDIDATES] = self._paint(size, record.candidates)
        for step, data in record.label_maps.items():
            result[step] = label_maps.decode_png(data)
        if self._truth is not None and record.split == self.evaluated:
            result[GROUND_TRUTH] = self._truth.semantic(
                record.image["image_id"], record.image["file_name"]
            )
        return result

    def _paint(self, size: tuple[int, int], rows: Sequence[Mapping]) -> np.ndarray:
        labels = [row["cluster"] for row in rows]
        return overlays.paint_rows(size, rows, labels, self._clusters)

    def agreement(self, layers: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Stage → mean IoU of its label map with the ground truth, over this image's classes."""
        if GROUND_TRUTH not in layers:
            return {}
        result = {}
        for stage, labels in layers.items():
            mapping = self._mappings.get("initial_masks" if stage == MASKS else stage)
            if mapping is not None:
                counted = confusion_matrix.ConfusionMatrix(
                    len(self._truth.class_names), self._clusters
                )
                counted.add(labels, layers[GROUND_TRUTH])
                miou = confusion_matrix.scores(counted.counts, mapping).miou
                if np.isfinite(miou):
                    result[stage] = round(miou, 4)
        return result

    def described(self, stage: str) -> dict:
        """Id and title of a stage, and its labels with their names and colours."""
        title = TITLES.get(stage) or step_title(stage)
        return {"id": stage, "title": title, "labels": self._labels(stage)}

    def _labels(self, stage: str) -> list[dict]:
        step = self._colours[stage]
        own_names = self._inputs.settings["curation"]["names"]
        result = []
        for label in range(1, len(step.colours)):
            name = step.classes[label]
            colour = drawing.css_colour(overlays.visible(step.colours[label]))
            if stage == GROUND_TRUTH:
                result.append({"id": label, "name": name, "colour": colour})
            else:
                own = own_names[label - 1]
                if own == category_name(label):
                    own = f"cluster {label}"
                entry = {"id": label, "name": own, "colour": colour}
                result.append(entry | ({"class": name} if name else {}))
        return result
