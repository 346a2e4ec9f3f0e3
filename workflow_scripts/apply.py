"""Apply trained models to single images.

For each image, writes a label map (STEM.png), an overlay (STEM_overlay.jpg) and, with --mask-rcnn,
the objects (STEM.json, COCO) into a folder. The settings of the prediction (confidence threshold,
selection of candidates, precision, CRF, names of clusters) are read from use.json, which the
workflow writes for each seed. This file is looked for in the folder of --model and in the two
folders above. Sections of a dataset's config that are given as --settings (`predictions`,
`candidates`, `confidence`, `crf`) override it.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError, report_out_of_memory
from workflow_scripts.maskdistill.exports import single_images
from workflow_scripts.maskdistill.settings.checks import check_moved
from workflow_scripts.maskdistill.torch_tools.device import choose_device


@report_out_of_memory("use --device cpu, or smaller pictures")
def main(argv: list[str] | None = None) -> int:
    """Write the files of every image; exit code 0."""
    parser = cli.Parser("apply", __doc__, required=False)
    parser.add_argument(
        "--model", type=Path, required=True, help="model.pt of the segmentation model"
    )
    parser.add_argument("--mask-rcnn", type=Path, help="model.pt of the Mask R-CNN")
    parser.add_argument("--image", type=Path, nargs="+", required=True, help="images")
    parser.add_argument(
        "--threshold",
        type=float,
        help="confidence threshold τ, 0..1: keep objects with a higher score",
    )
    parser.add_argument(
        "--classes", type=Path, help="JSON list of the classes' names: classes.json of export_model"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    options = parser.parse_args(argv)
    stems = [path.stem for path in options.image]
    if len(set(stems)) < len(stems):
        raise InputError(
            "--image: two images have the same name apart from the suffix, so that their outputs "
            "would overwrite each other; run this command once for each of them"
        )
    inputs = [*options.image, options.model, options.mask_rcnn, options.classes]
    outputs = {path: single_images.Outputs.of(path, options.output) for path in options.image}
    for paths in outputs.values():
        single_images.check_outputs(inputs, paths)
    check_moved(options.settings, source="--settings")
    needed = []
    if options.mask_rcnn:
        needed = ["candidates"] if options.threshold is not None else ["candidates", "confidence"]
    models = single_images.Models(
        options.model,
        options.mask_rcnn,
        single_images.read_use(options.model, options.settings, needed=needed),
        choose_device(options.device),
        classes=options.classes,
        threshold=options.threshold,
    )
    for path in options.image:
        shares = models.apply(path, outputs[path])
        print(f"{path}:", ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares))
    return 0


if __name__ == "__main__":
    cli.run(main)
