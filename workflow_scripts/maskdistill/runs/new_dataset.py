"""Composing the YAML file of a new dataset: its values, and what each of them means."""

import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.data.layouts import Layout
from workflow_scripts.maskdistill.data.survey import Survey
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.repository import REPOSITORY, find_file
from workflow_scripts.maskdistill.runs import forecast, schedule
from workflow_scripts.maskdistill.settings.downloads import read_catalogue
from workflow_scripts.maskdistill.settings.layers import known_datasets, read_preset, read_yaml
from workflow_scripts.maskdistill.settings.sections.images import ImageSettings
from workflow_scripts.maskdistill.settings.whole_config import dataset_config

_WIDTH = 100
_CLUSTERS = 20  # used if the number of classes is unknown
_IMAGES_OF_A_CLUSTER = 10  # smallest plausible number of images per cluster


class Line(NamedTuple):
    """A setting and a comment that explains it."""

    path: str  # dotted
    value: Any
    comment: str = ""


def clusters(images: int, classes: int | None) -> int:
    """A number of clusters: the number of classes if it is known, else 20, fewer for few images."""
    return min(classes or _CLUSTERS, max(2, images // _IMAGES_OF_A_CLUSTER))


def _about_clusters(images: int, classes: int | None) -> str:
    """What a comment says about `clusters`."""
    if not classes:
        return "how many kinds of objects to look for; this is a guess, so try several values"
    if clusters(images, classes) == classes:
        return "as many as there are classes"
    return f"there are {classes:,} classes, but each cluster needs a few images"


def describe(
    layout: Layout, found: Survey, tolerated: tuple[float, int], *, images: int, shards: int
) -> list[Line]:
    """The settings that describe the dataset.

    Args:
        tolerated: share and number of unusable images with which a run goes on.
        images: number of images of the split `train`.
        shards: number of shards.
    """
    notes = {"adapter": layout.title, "splits": "images to train on, and to evaluate on"}
    notes["splits"] = notes["splits"] if "val" in layout.dataset["splits"] else "images to train on"
    notes["ground_truth"] = "labels are read by the evaluation only"
    lines = [
        Line(f"dataset.{key}", value, notes.get(key, "")) for key, value in layout.dataset.items()
    ]
    if layout.classes and found.undecided_turns:
        lines.append(
            Line(
                "dataset.label_orientation",
                "auto",
                f"EXIF turns {found.undecided_turns:,} photographs without a change of their size. "
                "Write upright if labels were drawn on photographs as they are shown, else stored; "
                "with auto the evaluation stops at the first of these photographs.",
            )
        )
    if not layout.objects:
        lines.append(
            Line(
                "evaluation.objects",
                False,
                "images have no masks of single objects in SegmentationObject, so that mask AP, "
                "coverage and calibration cannot be measured",
            )
        )
    share, number = tolerated
    if len(found.rejected) > max(share * (len(found.rejected) + len(found.read)), number):
        lines.append(
            Line(
                "images.max_rejected",
                min(1.0, round(found.rejected_share + 0.01, 2)),
                f"{100 * found.rejected_share:.0f} % of the images cannot be used; without this "
                "line the run would stop",
            )
        )
    return [
        *lines,
        Line(
            "shards",
            shards,
            f"about {images // shards:,} images each; do not change it later: every stage would "
            "run again",
        ),
        Line(
            "clustering.clusters",
            clusters(images, layout.classes),
            _about_clusters(images, layout.classes),
        ),
    ]


def schedule_lines(trainings: Mapping[str, Mapping], images: int) -> list[Line]:
    """The settings of `schedule.trainings` with their meaning."""
    comments = {
        "mask_rcnn.learning_rate_steps": "after 83 % and 92 % of the steps, as in the paper",
        "mask_rcnn.batch_size": "images per step; so many fit into the memory of this machine",
        "mask_rcnn.learning_rate": "the preset's value, scaled in proportion to the batch size",
        "segmentation.epochs": "passes over the images; the paper has 45",
        "segmentation.learning_rate_milestones": "after 89 % of the epochs, as in the paper",
        "segmentation.learning_rate": "the preset's value, scaled in proportion to the batch size",
    }
    if mask_rcnn := trainings.get("mask_rcnn"):
        passes = mask_rcnn["iterations"] * mask_rcnn["batch_size"] / images
        comments["mask_rcnn.iterations"] = f"{passes:.1f} passes over the images; the paper has 36"
    return [
        Line(f"{section}.{key}", value, comments.get(f"{section}.{key}", ""))
        for section, values in trainings.items()
        for key, value in values.items()
    ]


def transformer_lines(backbone: str | None, weights: Path | None) -> list[Line]:
    """The settings of a vision transformer that takes the place of the preset's.

    Args:
        backbone: timm's name; None for that of the preset.
        weights: file with its weights; None for those of the preset.
    """
    lines = []
    if backbone is not None:
        lines.append(Line("features.backbone", backbone, "the vision transformer"))
    if weights is not None:
        lines.append(Line("features.weights", str(weights.absolute()), "its weights"))
    return lines


def whole(listings: Iterable[datasets.Listing]) -> datasets.Listing:
    """All images of several splits, each once, and all files that were skipped."""
    listings = list(listings)
    found = {image.file_name: image for listing in listings for image in listing.images}
    skipped = {file for listing in listings for file in listing.skipped}
    return datasets.Listing([*found.values()], sorted(skipped))


def preset_for(machine: schedule.Machine, folders: Sequence[Path]) -> str:
    """The preset for this machine: `quick` without a GPU, if there is such a preset.

    Args:
        folders: folders of the files of datasets; the folder `presets` is next to each.
    """
    known = known_datasets([folder.parent / "presets" for folder in folders])
    return "quick" if machine.gpu is None and "quick" in known else "standard"


def compose(
    name: str,
    layout: Layout,
    found: Survey,
    counts: Mapping[str, int],
    *,
    preset: str,
    hours: float,
    machine: schedule.Machine,
    folders: Sequence[Path],
    transformer: Sequence[Line] = (),
) -> tuple[list[Line], dict[str, float], dict]:
    """The settings of the file, the seconds of each rule of its run, and the complete config.

    Args:
        name: name of the dataset.
        counts: split → number of images.
        hours: how long the run may take.
        folders: folders of the files of datasets, see `whole_config.dataset_config`.
        transformer: settings of the vision transformer, see `transformer_lines`.

    Raises:
        InputError: the result is not a valid config.
    """
    default = read_yaml(find_file("config/default.yaml"))
    catalogue = read_catalogue(REPOSITORY / "resources" / "downloads.yaml")
    throughput = read_json(REPOSITORY / "resources" / "throughput.json", remedy="restore it")
    limits = ImageSettings()

    def config_of(lines: list[Line]) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "datasets"
            written.mkdir()
            (written / f"{name}.yaml").write_text(render([], lines))
            return dataset_config(
                name,
                default,
                [written, *folders],
                downloadable=catalogue["files"],
            )

    images = counts["train"]
    lines = [
        Line("preset", preset, f"the settings in config/presets/{preset}.yaml"),
        *describe(
            layout,
            found,
            (limits.max_rejected, limits.max_rejected_count),
            images=images,
            shards=schedule.shards(images, machine),
        ),
        *transformer,
    ]
    config = config_of(lines)
    networks = forecast.networks_of(config)
    estimated = (counts, throughput["rules"], networks, machine)
    # Schedules are computed only if the preset does not set the length of a training.
    own = read_preset(preset, folders, folders[0])
    if not ("iterations" in own.get("mask_rcnn", {}) or "epochs" in own.get("segmentation", {})):
        trainings = schedule.trainings(config, *estimated, hours)
        lines += schedule_lines(trainings, images)
        config = config_of(lines)
    return lines, schedule.seconds_of(config, *estimated), config


def render(header: Sequence[str], lines: Sequence[Line]) -> str:
    """The text of the file.

    Args:
        header: paragraphs of the comment at its beginning.
        lines: settings; those of one section follow each other.
    """
    result = []
    for paragraph in header:
        result += textwrap.wrap(
            paragraph, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False
        )
    section = None
    for path, value, comment in lines:
        first, _, rest = path.partition(".")
        if first != section:
            result.append("")
            result += [f"{first}:"] if rest else []
            section = first
        indent = "  " if rest else ""
        dumped = yaml.safe_dump(
            value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=_WIDTH - 20
        )
        # After a single value, PyYAML writes the end of the document.
        dumped = f"{rest or first}: {dumped.removesuffix('...' + chr(10)).strip()}".splitlines()
        if comment and len(dumped) == 1 and len(f"{indent}{dumped[0]} # {comment}") <= _WIDTH:
            dumped[0] += f" # {comment}"
        elif comment:
            result += textwrap.wrap(
                comment, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
            )
        result += [f"{indent}{'  ' if number else ''}{text}" for number, text in enumerate(dumped)]
    return "\n".join(result) + "\n"
