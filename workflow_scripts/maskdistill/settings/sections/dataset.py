"""The section `dataset`: where the images and their labels are."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from workflow_scripts.maskdistill.settings.section import (
    UNIQUE,
    Count,
    Natural,
    Section,
    contradiction,
    listed,
)


class SplitFiles(Section):
    """A split of a dataset in COCO's format."""

    annotations: str = Field(description="JSON file of instances in COCO's format.")
    images: str = Field(description="Folder of the images of the split.")
    image_list: str | None = Field(
        None,
        description="File with the images to use, one id or file name per line; its path is "
        "relative to the folder in which Snakemake runs.",
    )
    excluded_list: str | None = Field(
        None,
        description="File with the images to leave out, one id or file name per line; its path is "
        "relative to the folder in which Snakemake runs.",
    )


Split = Annotated[
    Annotated[str, Tag("name")] | Annotated[SplitFiles, Tag("files")],
    Discriminator(lambda value: "files" if isinstance(value, Mapping | SplitFiles) else "name"),
]


class Splits(Section):
    """The splits of a dataset; only `train` is required."""

    train: Split = Field(None, description="Images to train on.")
    val: Split = Field(None, description="Images to evaluate on; by default those of `train`.")
    instances: Split = Field(
        None,
        description="Images on which the AP of masks is measured; by default those that everything "
        "else is evaluated on.",
    )


class GeneratedScenes(Section):
    """How many scenes are generated."""

    train: Count = Field(description="Number of training scenes.")
    val: Count = Field(description="Number of evaluated scenes.")
    seed: Natural = Field(description="Seed of the generator.")


def _check_class(name: str) -> str:
    if name == "background":
        raise PydanticCustomError(
            "background",
            "Input is not allowed: label 0 is the background and is not listed",
        )
    return name


class DatasetSettings(Section):
    """Where the images and their labels are."""

    section: ClassVar[str] = "dataset"

    root: str = Field(description="Folder that all paths of the dataset are relative to.")
    adapter: Literal["folder", "voc", "coco"] = Field(
        "folder",
        description="Layout of the files: folder (any tree of images), voc (PASCAL VOC) or coco "
        "(COCO).",
    )
    splits: Splits = Field(
        {},
        validate_default=True,
        description="Images to train on (`train`) and, if they differ, to evaluate (`val`) and to "
        "measure the AP of masks on (`instances`). With the adapter folder, each is a sub-folder, "
        'or "." for the whole folder; with voc, a list in ImageSets/Segmentation, or a file; with '
        "coco, the keys `annotations`, `images` and optionally `image_list` or `excluded_list`.",
    )
    ground_truth: bool = Field(
        False,
        description="Whether there are labels; no stage before the evaluation reads them.",
    )
    classes: Annotated[listed(Annotated[str, AfterValidator(_check_class)]), *UNIQUE] = Field(
        (),
        description="Names of the classes 1, 2, …, for the adapter voc only; a COCO file has the "
        "names of its classes.",
    )
    label_orientation: Literal["auto", "upright", "stored"] = Field(
        "auto",
        description="Whether the labels of a photograph that EXIF turns were drawn on it as it is "
        "shown (upright) or as its file stores it (stored). auto decides by the size of the label "
        "map, and stops with an error if both have the same size.",
    )
    generate: GeneratedScenes | None = Field(
        None,
        description="Numbers of scenes to generate as images of this dataset, whose root must be "
        "data/NAME; null to read existing images.",
    )
    download: str | None = Field(
        None,
        description="Name of a dataset in resources/downloads.yaml, which is downloaded if root "
        "is data/NAME. Any other root is your own copy, which is only read.",
    )

    def _check_contradictions(self) -> None:
        splits = self.splits.model_fields_set
        if "train" not in splits:
            raise contradiction("splits", "needs a split `train`, the images to learn from")
        for name in sorted(splits):
            files = isinstance(getattr(self.splits, name), SplitFiles)
            if files != (self.adapter == "coco"):
                expected = "one name" if files else "`annotations` and `images`"
                raise contradiction(
                    f"splits.{name}", f"the adapter {self.adapter} expects {expected}"
                )
        if self.ground_truth and self.adapter == "folder":
            raise contradiction(
                "ground_truth", "a plain folder has no labels; set dataset.ground_truth: false"
            )
        if self.ground_truth and self.adapter == "voc" and not self.classes:
            raise contradiction("classes", "must name the classes 1, 2, … of the labels")
