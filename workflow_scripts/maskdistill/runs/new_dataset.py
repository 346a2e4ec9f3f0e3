"""Composing the YAML file of a new dataset: its values, and what each of them means."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from workflow_scripts.maskdistill.data.layouts import Layout
from workflow_scripts.maskdistill.data.survey import Survey

_WIDTH = 100
_CLUSTERS = 20  # where nothing is known of the kinds of objects
_IMAGES_OF_A_CLUSTER = 10  # fewer are hardly a kind


class Line(NamedTuple):
    """A setting and a comment that explains it."""

    path: str  # dotted
    value: Any
    comment: str = ""


def clusters(images: int, classes: int | None) -> int:
    """A number of clusters: that of the classes, or 20, or fewer for few images."""
    return classes or max(2, min(_CLUSTERS, images // _IMAGES_OF_A_CLUSTER))


def describe(
    layout: Layout, found: Survey, tolerated: tuple[float, int], *, images: int, shards: int
) -> list[Line]:
    """The settings that describe the dataset.

    Args:
        tolerated: share and number of unusable images with which a run goes on.
        images: of the split `train`.
        shards: number of shards.
    """
    notes = {"adapter": layout.title, "splits": "the images to learn from, and to evaluate"}
    notes["splits"] = notes["splits"] if "val" in layout.dataset["splits"] else "learn from these"
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
                "with auto the evaluation stops if it meets one of them.",
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
    of_classes = "as many as there are classes" if layout.classes else "how many kinds of objects "
    of_classes += "" if layout.classes else "to look for: nobody knows, so try several"
    return [
        *lines,
        Line(
            "shards",
            shards,
            f"about {images // shards:,} images each; keep the number, as another one moves images",
        ),
        Line("clustering.clusters", clusters(images, layout.classes), of_classes),
    ]


def schedule_lines(schedule: Mapping[str, Mapping], images: int) -> list[Line]:
    """The settings of `schedule.trainings` with their meaning."""
    passes = schedule["mask_rcnn"]["iterations"] * schedule["mask_rcnn"]["batch_size"] / images
    comments = {
        "mask_rcnn.iterations": f"{passes:.1f} passes over the images; the paper's run has 36",
        "mask_rcnn.batch_size": "images of one step: fits the memory of this machine",
        "mask_rcnn.learning_rate": "the paper's, in proportion to the batch size",
        "mask_rcnn.learning_rate_steps": "after 83 % and 92 % of the steps, as in the paper",
        "segmentation.epochs": "passes over the images; the paper's run has 45",
        "segmentation.learning_rate": "the paper's, in proportion to the batch size",
        "segmentation.learning_rate_milestones": "after 89 % of the epochs, as in the paper",
    }
    return [
        Line(f"{section}.{key}", value, comments.get(f"{section}.{key}", ""))
        for section, values in schedule.items()
        for key, value in values.items()
    ]


def render(header: Sequence[str], lines: Sequence[Line]) -> str:
    """The text of the file.

    Args:
        header: paragraphs of the comment at its beginning.
        lines: settings; those of a section stand together.
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
