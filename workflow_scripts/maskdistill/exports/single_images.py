"""Applies trained models of a run to single images: label map, overlay and objects of each.

The settings for this (confidence threshold, selection of candidates, precision, CRF, names) are in
use.json, which the program `describe_use` writes.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.exports.coco import instances
from workflow_scripts.maskdistill.exports.content import Picture, write_label_map
from workflow_scripts.maskdistill.files import atomic, coco_json, images, label_maps
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.mask_rcnn import engines
from workflow_scripts.maskdistill.mask_rcnn.candidates import rows_of_image
from workflow_scripts.maskdistill.pictures.overlays import write_overlay
from workflow_scripts.maskdistill.segmentation import confidence, crf, label_map_prediction
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.confidence import ConfidenceSettings
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.settings.sections.predictions import PredictionSettings

_LEVELS_TO_SEED = 2  # from round-R/segmentation up to the folder of the seed
_SECTIONS = ("predictions", "candidates", "confidence", "crf")


def read_use(model: Path, settings: Mapping, *, needed: Sequence[str]) -> dict:
    """The settings for applying the models of a run: use.json, overridden by `settings`.

    Args:
        model: the segmentation model; use.json is in its folder or in one of the two above.
        settings: settings of the sections `predictions`, `candidates`, `confidence`, `crf`.
        needed: sections that must be in use.json or in `settings`.

    Raises:
        InputError: a needed section is neither in use.json nor in `settings`.
    """
    folder = model.absolute().parent
    places = [above / "use.json" for above in (folder, *list(folder.parents)[:_LEVELS_TO_SEED])]
    path = next(filter(Path.is_file, places), None)
    found = {} if path is None else read_json(path, remedy="describe_use writes it")
    use = {"predictions": PredictionSettings().plain(), "crf": None, "names": None, **found}
    for name in _SECTIONS:
        if name in settings:
            own = settings[name]
            use[name] = own if own is None else {**(use.get(name) or {}), **own}
    if missing := [name for name in needed if name not in use]:
        raise InputError(
            f"{model}: its folder and the two folders above have no use.json, the file that says "
            f"how the run selects objects; copy results/DATASET/seed-SEED/use.json there, or give "
            f"--settings with {' and '.join(missing)}"
        )
    if path is None:
        print(
            f"{model}: no use.json was found; using float32 and no CRF, unless --settings gives "
            "other values"
        )
    return use


class Outputs(NamedTuple):
    """The files that are written for one image."""

    label_map: Path
    overlay: Path
    objects: Path  # only written if there is a Mask R-CNN

    @classmethod
    def of(cls, image: Path, folder: Path) -> "Outputs":
        """STEM.png, STEM_overlay.jpg and STEM.json in `folder`."""
        return cls(*(folder / f"{image.stem}{end}" for end in (".png", "_overlay.jpg", ".json")))


def check_outputs(inputs: Iterable[Path | None], outputs: Iterable[Path]) -> None:
    """Check that no output is an input, even through a link.

    Raises:
        InputError: an output would overwrite an input.
    """
    existing = [path for path in inputs if path is not None and path.exists()]
    for output in filter(Path.exists, outputs):
        if any(output.samefile(path) for path in existing):
            raise InputError(
                f"{output}: the output would overwrite an input of this command; "
                "choose another folder as --output"
            )


class Models:
    """A segmentation model and, to find objects, a Mask R-CNN.

    Args:
        segmentation: file of the segmentation model.
        mask_rcnn: file of the Mask R-CNN, or None.
        use: result of `read_use`.
        classes: JSON list of names of the classes, instead of the names in `use`.
        threshold: objects with a higher score are kept; None for the threshold in `use`.

    Raises:
        InputError: the number of names differs from the model's number of classes.
    """

    def __init__(
        self,
        segmentation: Path,
        mask_rcnn: Path | None,
        use: Mapping,
        device: torch.device,
        *,
        classes: Path | None = None,
        threshold: float | None = None,
    ) -> None:
        self._segmentation = label_map_prediction.load_predictor(
            segmentation, device, **PredictionSettings.read(use["predictions"]).plain()
        )
        self._crf = None if use["crf"] is None else CRFSettings.read(use["crf"])
        self._mask_rcnn = None
        if mask_rcnn:
            settings = CandidateSettings.read(use["candidates"])
            chosen = ConfidenceSettings.read(use.get("confidence", {}))
            self._keep = functools.partial(
                confidence.confident,
                threshold=chosen.threshold if threshold is None else threshold,
                keep_best=chosen.keep_best,
                overlap=chosen.overlap,
            )
            self._mask_rcnn = engines.load_predictor(mask_rcnn, settings=settings, device=device)
        clusters = self._segmentation.clusters
        self._names = use["names"] or list(coco_json.category_names(clusters, None))
        if classes:
            self._names = read_json(classes, remedy="export_model writes it")
            if len(self._names) != clusters:
                raise InputError(
                    f"{classes}: {len(self._names)} names, but {segmentation} has {clusters} "
                    "classes; give the classes.json that was exported with this model"
                )

    def apply(self, path: Path, outputs: Outputs) -> list[tuple[str, float]]:
        """Write the label map, the overlay and, with a Mask R-CNN, the objects of one image.

        Returns:
            Name and share of pixels of `background` and of every class in the image.

        Raises:
            InputError: the image is unusable.
        """
        try:
            image = images.read_image(path)
        except images.ImageRejected as rejection:
            raise InputError(f"{path}: {rejection}") from rejection
        labels = self._labels(image).astype(label_maps.dtype(self._segmentation.clusters))
        outputs.label_map.parent.mkdir(parents=True, exist_ok=True)
        with atomic.atomic_path(outputs.label_map) as temporary:
            write_label_map(labels, temporary)
        with atomic.atomic_path(outputs.overlay) as temporary:
            write_overlay(image, labels, temporary)
        if self._mask_rcnn is not None:
            height, width = labels.shape
            listed = {"image_id": 1, "height": height, "width": width}
            rows = list(rows_of_image(listed, self._mask_rcnn.predict([image])[0]))
            found = self._keep(rows)
            picture = Picture(1, path.name, path.name, height, width, labels, found, None)
            atomic.write_text(outputs.objects, json.dumps(instances([picture], self._names)))
        counts = np.bincount(labels.ravel(), minlength=len(self._names) + 1)
        named = zip(["background", *self._names], counts / labels.size, strict=True)
        return [(name, float(share)) for name, share in named if share]

    @torch.inference_mode()
    def _labels(self, image: np.ndarray) -> np.ndarray:
        found = self._segmentation.predict_image(image)
        if self._crf is None:
            return found.labels()
        probabilities = found.probabilities(self._crf.longer_side)
        return crf.refined_labels(probabilities, found.image, self._crf, found.size)
