"""Apply trained models to single images: label map, overlay and, with a Mask R-CNN, objects.

Writes STEM.png, STEM_overlay.jpg and STEM.json (COCO) into a folder. What the use of the models
needs (confidence threshold, selection of candidates, precision, CRF, names) is taken from use.json,
which the workflow writes for each seed, in the folder of --model or above it. --settings takes
parts of a dataset's config, which go over that: `predictions`, `candidates`, `confidence`, `crf`.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.exports.coco import instances
from workflow_scripts.maskdistill.exports.content import Picture, write_label_map
from workflow_scripts.maskdistill.files import atomic, coco_json, images, label_maps
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.mask_rcnn import engines
from workflow_scripts.maskdistill.mask_rcnn.candidates import rows_of_image
from workflow_scripts.maskdistill.pictures.overlays import write_overlay
from workflow_scripts.maskdistill.segmentation import confidence, crf, label_map_prediction
from workflow_scripts.maskdistill.settings.checks import check_moved
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.settings.sections.predictions import PredictionSettings
from workflow_scripts.maskdistill.torch_tools.device import choose_device

_LEVELS = 2  # from round-R/segmentation to the folder of the seed
LABELS, OVERLAY, OBJECTS = ENDINGS = (".png", "_overlay.jpg", ".json")


def main(argv: list[str] | None = None) -> int:
    """Write the files of every image; exit code 0."""
    parser = cli.Parser("apply", __doc__, required=False)
    parser.add_argument("--model", type=Path, required=True, help="segmentation model.pt")
    parser.add_argument("--mask-rcnn", type=Path, help="Mask R-CNN model.pt")
    parser.add_argument("--image", type=Path, nargs="+", required=True, help="pictures")
    parser.add_argument(
        "--threshold", type=float, help="τ: objects of a higher score are kept, 0..1"
    )
    parser.add_argument("--classes", type=Path, help="classes.json of export_model: names")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    options = parser.parse_args(argv)
    stems = [path.stem for path in options.image]
    if len(set(stems)) < len(stems):
        raise InputError("--image: two pictures have the same name; apply them one by one")
    given = [*options.image, options.model, options.mask_rcnn, options.classes]
    for path in options.image:
        _refuse_to_overwrite(given, [_output(options, path, ending) for ending in ENDINGS])

    check_moved(options.settings, source="--settings")
    use = _use(options)

    device = choose_device(options.device)
    segmentation = label_map_prediction.load_predictor(
        options.model, device, precision=use["predictions"]["precision"]
    )
    detector = None
    if options.mask_rcnn:
        settings = CandidateSettings.read(use["candidates"])
        threshold = options.threshold
        if threshold is None:
            threshold = use["confidence"]["threshold"]
        detector = engines.load_predictor(options.mask_rcnn, settings=settings, device=device)
    names = use["names"] or list(coco_json.category_names(segmentation.clusters, None))
    if options.classes:
        names = read_json(options.classes, remedy="export_model writes it")
        if len(names) != segmentation.clusters:
            raise InputError(
                f"{options.classes}: {len(names)} names, but {options.model} has "
                f"{segmentation.clusters} classes; take those exported with the model"
            )
    for path in options.image:
        try:
            image = images.read_image(path)
        except images.ImageRejected as rejection:
            raise InputError(f"{path}: {rejection}") from rejection
        labels = _labels(segmentation, image, use["crf"])
        labels = labels.astype(label_maps.dtype(segmentation.clusters))
        options.output.mkdir(parents=True, exist_ok=True)
        with atomic.atomic_path(_output(options, path, LABELS)) as temporary:
            write_label_map(labels, temporary)
        with atomic.atomic_path(_output(options, path, OVERLAY)) as temporary:
            write_overlay(image, labels, temporary)
        if detector is not None:
            height, width = labels.shape
            listed = {"image_id": 1, "height": height, "width": width}
            rows = list(rows_of_image(listed, detector.predict([image])[0]))
            found = confidence.confident(rows, threshold)
            picture = Picture(1, path.name, path.name, height, width, labels, found, None)
            text = json.dumps(instances([picture], names))
            atomic.write_text(_output(options, path, OBJECTS), text)
        shares = np.bincount(labels.ravel(), minlength=len(names) + 1) / labels.size
        shown = ", ".join(
            f"{name} {100 * share:.1f} %"
            for name, share in zip(["background", *names], shares, strict=True)
            if share
        )
        print(f"{path}: {shown}")
    return 0


def _use(options: argparse.Namespace) -> dict:
    """What the use of the models needs: of use.json, and of --settings over it.

    Raises:
        InputError: something that is needed is in neither.
    """
    folder = options.model.absolute().parent
    places = [above / "use.json" for above in (folder, *list(folder.parents)[:_LEVELS])]
    path = next(filter(Path.is_file, places), None)
    found = {} if path is None else read_json(path, remedy="describe_use writes it")
    use = {"predictions": PredictionSettings().plain(), "crf": None, "names": None, **found}
    for name in ("predictions", "candidates", "confidence", "crf"):
        if name in options.settings:
            own = options.settings[name]
            use[name] = own if own is None else {**(use.get(name) or {}), **own}
    needed = ["candidates"] * bool(options.mask_rcnn)
    needed += ["confidence"] * bool(options.mask_rcnn and options.threshold is None)
    if missing := [name for name in needed if name not in use]:
        raise InputError(
            f"{options.model}: there is no use.json in its folder or above it, which says how "
            f"the run selects objects; copy results/DATASET/seed-SEED/use.json there, or give "
            f"--settings with {' and '.join(missing)}"
        )
    if path is None:
        print(f"{options.model}: no use.json; float32 and no CRF unless --settings says more")
    return use


def _output(options: argparse.Namespace, image: Path, ending: str) -> Path:
    return options.output / f"{image.stem}{ending}"


def _refuse_to_overwrite(inputs: Iterable[Path | None], outputs: Iterable[Path]) -> None:
    existing = [path for path in inputs if path is not None and path.exists()]
    for output in filter(Path.exists, outputs):
        if any(output.samefile(path) for path in existing):
            raise InputError(
                f"{output}: an input of this command, which its output would overwrite; "
                "choose another folder as --output"
            )


@torch.inference_mode()
def _labels(predictor: label_map_prediction.Predictor, image: np.ndarray, settings: dict | None):
    found = predictor.predict_image(image)
    if settings is None:
        return found.labels()
    return crf.refined_labels(found.probabilities(), image, CRFSettings.read(settings))


if __name__ == "__main__":
    cli.run(main)
