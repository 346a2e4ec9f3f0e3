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

    annotations: str = Field(description="COCO instances file.")
    images: str = Field(description="Folder of its images.")
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
    """The splits of a dataset; one that is left out does not exist."""

    train: Split = Field(None, description="Images to train on.")
    val: Split = Field(None, description="Images to evaluate, if not `train`.")
    instances: Split = Field(None, description="Images for AP of masks, if not the evaluated ones.")


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
        "folder", description="folder (any tree of images), voc (PASCAL VOC) or coco (COCO)."
    )
    splits: Splits = Field(
        {},
        validate_default=True,
        description="Images to train on (`train`) and, if they differ, to evaluate (`val`) and to "
        'evaluate by AP of masks (`instances`). folder: a sub-folder, or "." for the whole folder. '
        "voc: a list in ImageSets/Segmentation, or a file. coco: `annotations`, `images` and "
        "optionally `image_list` or `excluded_list`.",
    )
    ground_truth: bool = Field(
        False,
        description="Whether there are labels for the evaluation; no other stage reads them.",
    )
    classes: Annotated[listed(Annotated[str, AfterValidator(_check_class)]), *UNIQUE] = Field(
        (), description="voc only: the names of classes 1, 2, …; COCO's file has its own."
    )
    label_orientation: Literal["auto", "upright", "stored"] = Field(
        "auto",
        description="Pixels that labels were drawn on, where EXIF turns a photograph: as it is "
        "shown (upright) or as it is stored. auto decides by the size of the labels, and stops "
        "where both have the same size.",
    )
    generate: GeneratedScenes | None = Field(
        None, description="Makes the dataset from generated scenes; root must be data/NAME."
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
