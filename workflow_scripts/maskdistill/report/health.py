"""Signs of problems in a run, found in its files without reading any label.

Each finding is a sentence with numbers, for some topics with a histogram, and advice if something
looks wrong. The bounds below are rules of thumb. If a value exceeds its bound, the user should look
at the pictures.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from workflow_scripts.maskdistill.data import folders
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks, shards
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.settings.checks import untrained, untrained_warning

WHOLE_IMAGE = 0.9  # masks that cover at least this share of the image count as whole images
TINY = 0.005  # masks that cover less than this share of the image count as noise
LOW_QUALITY = 0.05  # median quality below which the keys hardly separate masks from the rest
FEW = 0.05  # largest share of unusual images or masks that is not reported as a problem
# Largest share of all masks in one cluster, and of images without a confident candidate, that is
# not reported.
MANY = 0.5
SMALLEST_CLUSTER = 5  # number of masks below which a pseudo-class is too small to be learned
LOOSE = 1.5  # a cluster is loose if its mean distance is this many times that of all masks
FALL = 0.1  # the loss of a training should fall by at least this share
LISTED = 10  # numbers of clusters that one line names at most
BINS = 20


class Distribution(NamedTuple):
    """A histogram with equal bins."""

    label: str
    low: float
    high: float
    counts: list[int]


class Finding(NamedTuple):
    """What was found about one topic of one split or training."""

    topic: str  # images, masks, clusters, candidates or training
    name: str  # the split, or the training
    summary: str
    advice: list[str]  # empty if nothing looks wrong
    distribution: Distribution | None = None

    def as_json(self) -> dict:
        """All fields, the distribution as an object too."""
        shown = self.distribution._asdict() if self.distribution else None
        return {**self._asdict(), "distribution": shown}


def read_findings(path: Path) -> list[Finding]:
    """The findings that check_health wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    content = read_json(path, remedy="run the workflow again")
    return [
        Finding(
            **{
                **found,
                "distribution": found["distribution"] and Distribution(**found["distribution"]),
            }
        )
        for found in content["findings"]
    ]


def lines(findings: Sequence[Finding]) -> list[str]:
    """Findings for a terminal: one line for each, and its advice below it."""
    result = []
    for found in findings:
        mark = "!" if found.advice else "✓"
        result.append(f"{mark} {found.topic}, {found.name}: {found.summary}")
        result += [f"    {advice}" for advice in found.advice]
    return result


def check_images(
    split: str,
    manifest: pd.DataFrame,
    skipped: Mapping[str, Mapping] | None = None,
    one_colour: Mapping[str, Mapping] | None = None,
) -> Finding:
    """How many images of a split could be read, and which other files were skipped.

    Args:
        manifest: columns file_name and status.
        skipped: result of `folders.read_skipped`.
        one_colour: result of `folders.read_one_colour`.
    """
    rejected = manifest[manifest["status"] != shards.OK]
    summary = f"{_many(len(manifest) - len(rejected), 'image')} could be read"
    advice = []
    if len(rejected):
        first = rejected.iloc[0]
        summary += f", {len(rejected):,} could not"
        advice.append(
            f"Repair or remove the files that could not be read; the first is {first['file_name']} "
            f"({first['status']})."
        )
    for flat in (one_colour or {}).values():
        summary += f", {flat['count']:,} of one colour"
        advice.append(
            "Images of one colour show no object, so their masks and labels mean nothing; remove "
            f"them. The first is {flat['example']}."
        )
    kinds = [f"{one['count']:,} × {kind}" for kind, one in (skipped or {}).items()]
    summary += f"; skipped: {', '.join(kinds)}" if kinds else ""
    return Finding("images", split, f"{summary}.", advice)


def check_masks(split: str, rows: pd.DataFrame) -> Finding:
    """How much of their images the initial masks cover.

    Args:
        rows: columns image_id, share, quality and status, one row per mask.
    """
    found = rows[rows["status"] == shards.OK]
    count = rows["image_id"].nunique()
    without = count - found["image_id"].nunique()
    covered, quality = found["share"].to_numpy(), found["quality"].to_numpy()
    unused = int((rows["status"] == masks.WHOLE_IMAGE).sum())  # an image has at most one
    whole, tiny = unused + int((covered >= WHOLE_IMAGE).sum()), int((covered < TINY).sum())
    advice = []
    if without - unused > FEW * count:
        advice.append(
            f"Many images have no object mask: {_reasons(rows)}. Change masks.center_keys, "
            "masks.top_k, masks.least_share or masks.largest_share."
        )
    if whole > FEW * (len(found) + unused):
        advice.append(
            "Many masks cover the whole image, so they show no object; set masks.center_keys: "
            "auto, or lower masks.top_k."
        )
    if len(found) and np.median(quality) < LOW_QUALITY:
        advice.append(
            "The keys of the patches hardly separate the masks from the rest; another backbone or "
            "other weights (features) may do so, or masks.center_keys: auto."
        )
    if tiny > FEW * len(found):
        advice.append(
            f"Many masks cover less than {TINY:.1%} of their image; raise masks.top_k, or set "
            "masks.center_keys: false if it is true."
        )
    summary = f"{_many(len(found), 'mask')} in {_many(count, 'image')}, {without:,} without any"
    if len(found):
        summary += (
            f"; the median mask covers {np.median(covered):.0%} of its image, {whole:,} cover at "
            f"least {WHOLE_IMAGE:.0%} and {tiny:,} less than {TINY:.1%}; the median quality (share "
            f"of the variance of keys that lies between mask and rest) is {np.median(quality):.2f}"
        )
    elif unused:
        summary += f"; {unused:,} masks cover the whole image and are not used"
    shown = _distribution("share of the image", covered)
    return Finding("masks", split, f"{summary}.", advice, shown)


def check_clusters(rows: pd.DataFrame, number: int) -> Finding:
    """How large and how tight the clusters of the training masks are.

    Args:
        rows: columns cluster (1..number) and distance (to its centroid), one row per mask.
        number: number of clusters.
    """
    by_cluster = rows.groupby("cluster")["distance"]
    sizes = by_cluster.size().reindex(range(1, number + 1), fill_value=0)
    means = by_cluster.mean()
    few = sizes.index[sizes < SMALLEST_CLUSTER]
    loose = means.index[means > LOOSE * rows["distance"].mean()]
    advice = []
    if len(few):
        advice.append(
            f"{_many(len(few), 'cluster')} {'has' if len(few) == 1 else 'have'} fewer than "
            f"{SMALLEST_CLUSTER} masks ({_listed(few)}); fewer clusters (clustering.clusters) may "
            "fit these images better."
        )
    if number > 1 and sizes.max() > MANY * len(rows):
        advice.append(
            f"Cluster {sizes.idxmax()} holds {sizes.max() / len(rows):.0%} of all masks; more "
            "clusters, or embedding.input: box_crop, may divide it."
        )
    if len(loose):
        advice.append(
            f"The masks of {_many(len(loose), 'cluster')} ({_listed(loose)}) have little in "
            f"common: their mean distance to the centroid is more than {LOOSE:g} times that of all "
            "masks. Look at the contact sheets, and name clusters that are noise `background` in "
            "config/names."
        )
    summary = (
        f"{_many(len(rows), 'mask')} in {_many(number, 'cluster')} of {sizes.min():,} to "
        f"{sizes.max():,}; the mean distance to the centroid is {rows['distance'].mean():.3g}"
    )
    shown = _distribution("distance to the centroid", rows["distance"].to_numpy(), high=None)
    return Finding("clusters", "train", f"{summary}.", advice, shown)


def check_candidates(
    split: str, rows: pd.DataFrame, images: int, threshold: float, *, trained: bool
) -> Finding:
    """How confident the candidates are.

    Args:
        rows: columns image_id and score, one row per candidate. An image without candidates has
            one row, whose score is missing.
        images: number of readable images of the split.
        threshold: τ, above which a candidate is confident.
        trained: True if Mask R-CNN found the candidates, False if they are the initial masks.
    """
    longer = "train longer (mask_rcnn.iterations), or " if trained else ""
    best = rows.dropna().groupby("image_id")["score"].max()
    without = images - len(best)
    unsure = int((best <= threshold).sum())
    advice = []
    if unsure > MANY * len(best):
        advice.append(
            f"Most images have no candidate above confidence.threshold ({threshold:g}); "
            f"{longer}lower the threshold."
        )
    if without > FEW * images:
        advice.append(
            "Many images have no candidate, so their label maps show only background; "
            + (f"{longer}lower candidates.score_floor." if trained else "look at their masks.")
        )
    summary = f"{_many(images, 'image')}, {without:,} without any candidate"
    if len(best):
        summary += (
            f"; the median of the best score per image is {best.median():.2f}, and {unsure:,} do "
            f"not exceed {threshold:g}"
        )
    shown = _distribution("best score per image", best.to_numpy())
    return Finding("candidates", split, f"{summary}.", advice, shown)


def check_training(name: str, history: Path) -> Finding:
    """Whether the loss of a training fell.

    Args:
        name: title of the training.
        history: its history.csv, with the column loss.

    Raises:
        InputError: there is no such file, or no loss in it.
    """
    try:
        loss = pd.read_csv(history)["loss"].to_numpy(np.float64)
    except (OSError, KeyError, ValueError):
        raise InputError(f"{history}: missing, or not a table of losses; train again") from None
    if not len(loss):
        return Finding("training", name, "no step was recorded.", ["Train again."])
    part = max(1, len(loss) // 10)
    first, last = float(loss[:part].mean()), float(loss[-part:].mean())
    advice = []
    if not np.isfinite(loss).all():
        advice.append("The loss is not a number in some steps; lower the learning rate.")
    elif last > (1 - FALL) * first:
        advice.append("The loss did not fall; train longer, or change the learning rate.")
    summary = f"the mean loss is {first:.3g} in the first tenth and {last:.3g} in the last tenth."
    return Finding("training", name, summary, advice)


def check(
    *,
    images: Mapping[str, Sequence[Path]],
    masks: Mapping[str, Sequence[Path]],
    assignments: Sequence[Path],
    candidates: Mapping[str, Sequence[Path]],
    histories: Mapping[str, Path],
    settings: Mapping,
) -> list[Finding]:
    """All findings about a run, in the order in which its data flows.

    Args:
        images, masks, candidates: split → shards.
        assignments: clusters of the training masks.
        histories: title of a training → its history.csv.
        settings: clustering.clusters, confidence.threshold, mask_rcnn.enabled, segmentation.model,
            and the weights of both trainings.
    """
    manifests = {split: _read(paths, "file_name", "status") for split, paths in images.items()}
    result = [
        check_images(
            split, manifests[split], folders.read_skipped(paths), folders.read_one_colour(paths)
        )
        for split, paths in images.items()
    ]
    for split, paths in masks.items():
        rows = _read(paths, "image_id", "share", "quality", "status")
        result.append(check_masks(split, rows))
    rows = _read(assignments, "cluster", "distance")
    result.append(check_clusters(rows, settings["clustering"]["clusters"]))
    for split, paths in candidates.items():
        usable = int((manifests[split]["status"] == shards.OK).sum())
        rows = _read(paths, "image_id", "score")
        threshold = settings["confidence"]["threshold"]
        trained = settings["mask_rcnn"]["enabled"]
        result.append(check_candidates(split, rows, usable, threshold, trained=trained))
    result += [check_training(name, path) for name, path in histories.items()]
    if found := untrained(settings):
        advice = [untrained_warning(stage) for stage in found]
        result.append(Finding("training", "initial weights", "random numbers.", advice))
    return result


def _read(paths: Sequence[Path], *columns: str) -> pd.DataFrame:
    return shards.read_table(paths, list(columns)).to_pandas()


def _reasons(rows: pd.DataFrame) -> str:
    """How many images have no mask with the status ok, by the status of their first mask."""
    usable = rows.loc[rows["status"] == shards.OK, "image_id"]
    first = rows[~rows["image_id"].isin(usable)].drop_duplicates("image_id")
    counts = first["status"].value_counts()
    return ", ".join(f"{count:,} {status}" for status, count in counts.items())


def _listed(numbers: Iterable[int]) -> str:
    numbers = list(numbers)
    more = f", … {len(numbers) - LISTED:,} more" if len(numbers) > LISTED else ""
    return ", ".join(map(str, numbers[:LISTED])) + more


def _distribution(label: str, values: np.ndarray, high: float | None = 1.0) -> Distribution | None:
    if not len(values):
        return None
    top = float(values.max()) or 1.0 if high is None else high
    counts, _ = np.histogram(values, BINS, (0.0, top))
    return Distribution(label, 0.0, top, counts.tolist())


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
