"""The formats of `snakemake exports`, for the settings, the rules and the documentation."""

from typing import NamedTuple


class ExportFormat(NamedTuple):
    """Description of a format for users, shown in config/README.md."""

    opened_with: str
    holds: str
    ground_truth: bool = False  # whether labels of the dataset are exported too


EXPORT_FORMATS = {
    "coco": ExportFormat(
        "pycocotools",
        "predicted objects with scores, and pseudo-labels, both as run lengths with the names of "
        "the classes; no images; `exports.polygons` adds copies with polygons",
    ),
    "voc": ExportFormat(
        'PASCAL VOC\'s tools, CVAT ("Segmentation mask")',
        "label maps; their connected regions as objects (if an image has more than 254, the "
        "smallest regions of a class share a number); at most 254 classes",
    ),
    "fiftyone": ExportFormat(
        "`fiftyone.Dataset.from_dir(dataset_dir=…, dataset_type=fiftyone.types.FiftyOneDataset)`",
        "label maps, objects, ground truth if there is any",
        ground_truth=True,
    ),
    "label_studio": ExportFormat(
        "import `tasks.json`; `interface.xml` is the labelling interface",
        "masks as brush predictions; Label Studio must serve the images as local files",
    ),
    "huggingface": ExportFormat(
        '`datasets.load_dataset("imagefolder", data_dir=…)`', "images, masks, objects"
    ),
    "yolo": ExportFormat(
        "YOLO's segmentation tools",
        "polygons: borders move by up to `exports.polygon_tolerance` pixels; no scores",
    ),
}
