"""A static web gallery of one dataset: every image with every stage, to filter and to compare.

A page cannot fetch files from the disk that it was opened from, so all data are scripts: `index.js`
holds a row for every image, to filter by, and each image has a script of its own with its picture
and overlays, which is loaded when it is opened. Thumbnails of all stages of an image are one JPEG.
"""

import collections
import concurrent.futures
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill import drawing, images, label_maps, masks, metrics, shards
from workflow_scripts.maskdistill.atomic import atomic_folder
from workflow_scripts.maskdistill.coco import category_name
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.ground_truth import GroundTruth
from workflow_scripts.maskdistill.matching import stored_mapping
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.step_colours import StepColours, step_colours
from workflow_scripts.maskdistill.step_titles import step_title

PICTURE_SIZE = 560  # longer side of a picture, in pixels
THUMBNAIL_SIZE = 200
CANDIDATES_SHOWN = 24  # of an image: the best, and all that are confident
PAGE_FILES = ("index.html", "gallery.css", "gallery.js")
TEMPLATES = Path(__file__).parent / "templates" / "gallery"

MASKS, CANDIDATES, GROUND_TRUTH = "masks", "candidates", "ground_truth"
TITLES = {MASKS: "Initial masks", CANDIDATES: "Candidates", GROUND_TRUTH: "Ground truth"}

ShardsBySplit = Mapping[str, Sequence[Path]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a gallery shows, of one seed. Shards of all stages of a split are in the same order."""

    dataset: str
    root: Path
    settings: Mapping  # `dataset`, `clustering.clusters` and `curation` of the config
    images: ShardsBySplit  # manifests
    masks: ShardsBySplit
    assignments: ShardsBySplit  # shards, or one file for all
    candidates: ShardsBySplit
    confident: ShardsBySplit
    steps: Mapping[str, Mapping[str, Sequence[Path]]]  # split → step → label maps
    metrics: Mapping | None = None  # metrics.json; without, no label is read


@dataclass(frozen=True, kw_only=True)
class _Work:
    """All that is known of one image, for a worker to draw."""

    split: str
    image: Mapping
    masks: Sequence[Mapping]  # with cluster and distance
    candidates: Sequence[Mapping]
    confident: frozenset[int]
    label_maps: Mapping[str, bytes]  # step → PNG


def write(inputs: Inputs, folder: Path, *, workers: int = 1) -> None:
    """Write the gallery; `folder` is replaced as a whole.

    One shard at a time is in memory, besides a row of the index for every image.

    Args:
        workers: processes that draw.

    Raises:
        InputError: an input is missing, damaged, or does not fit the others.
    """
    _check_shards(inputs)
    total = sum(shards.count_rows(path) for paths in inputs.images.values() for path in paths)
    rows = []
    with atomic_folder(folder) as temporary:
        painter = Painter(inputs, temporary)
        with (
            concurrent.futures.ProcessPoolExecutor(
                workers, initializer=_start_worker, initargs=(inputs, temporary)
            ) as pool,
            progress_bar(total=total, description="gallery", unit="image") as bar,
        ):
            # Few images wait at a time, so that a shard is not copied into the queue at once.
            waiting: collections.deque = collections.deque()
            for work in _all_work(inputs):
                waiting.append(pool.submit(_draw, work))
                if len(waiting) > 4 * workers:
                    rows.append(waiting.popleft().result())
                    bar.update()
            while waiting:
                rows.append(waiting.popleft().result())
                bar.update()
        _write_script(temporary / "index.js", "index", painter.index(rows))
        for name in PAGE_FILES:
            shutil.copyfile(TEMPLATES / name, temporary / name)


def _check_shards(inputs: Inputs) -> None:
    for split, manifests in inputs.images.items():
        stages = {
            MASKS: inputs.masks,
            CANDIDATES: inputs.candidates,
            "confident": inputs.confident,
        }
        given = {stage: paths.get(split, []) for stage, paths in stages.items()}
        for stage, paths in (given | dict(inputs.steps.get(split, {}))).items():
            if len(paths) not in (0, len(manifests)):
                raise InputError(
                    f"{stage} of {split}: {len(paths)} shards, but {len(manifests)} manifests; "
                    "give the shards of all stages in the same order"
                )


def _all_work(inputs: Inputs) -> Iterator[_Work]:
    for split, manifests in inputs.images.items():
        assigned = _Assignments(
            inputs.assignments.get(split, []), inputs.settings["curation"]["classes"]
        )
        for number, manifest in enumerate(manifests):

            def grouped(paths: Sequence[Path], number: int = number) -> dict[int, list]:
                return shards.group_by_image(paths[number]) if paths else {}

            mask_rows = grouped(inputs.masks.get(split, []))
            candidates = grouped(inputs.candidates.get(split, []))
            confident = grouped(inputs.confident.get(split, []))
            maps = {step: grouped(paths) for step, paths in inputs.steps.get(split, {}).items()}
            usable = []
            for image in shards.read_rows(manifest):
                image_id = image["image_id"]
                if image["status"] == shards.OK:
                    usable.append(image_id)
                yield _Work(
                    split=split,
                    image=image,
                    masks=[
                        row | assigned.of(image_id, row["mask_id"])
                        for row in mask_rows.get(image_id, [])
                    ],
                    candidates=_existing(candidates.get(image_id, [])),
                    confident=frozenset(
                        row["candidate_id"] for row in _existing(confident.get(image_id, []))
                    ),
                    label_maps={
                        step: found[image_id][0]["image"]["bytes"]
                        for step, found in maps.items()
                        if image_id in found
                    },
                )
            for step, found in maps.items():
                what = f"{inputs.steps[split][step][number]}"
                shards.assert_same_images(usable, found, what)


def _existing(rows: Sequence[Mapping]) -> list[Mapping]:
    """Without the row of an image that has no candidate; the best first."""
    found = [row for row in rows if row["candidate_id"] is not None]
    return sorted(found, key=lambda row: (-row["score"], row["candidate_id"]))


class _Assignments:
    """Clusters of many masks, in little memory; of merged ones their pseudo-class, of dropped 0."""

    def __init__(self, paths: Sequence[Path], classes: Sequence[int] | None) -> None:
        columns = ["image_id", "mask_id", "cluster", "distance"]
        table = shards.read_table(paths, columns) if paths else None
        self._columns = {name: table[name].to_numpy() if table else np.zeros(0) for name in columns}
        if table and classes is not None:
            self._columns["cluster"] = np.array([0, *classes])[self._columns["cluster"]]
        self._order = np.argsort(self._columns["image_id"], kind="stable")
        self._ids = self._columns["image_id"][self._order]

    def of(self, image_id: int, mask_id: int) -> dict:
        first, last = np.searchsorted(self._ids, [image_id, image_id + 1])
        for row in self._order[first:last]:
            if self._columns["mask_id"][row] == mask_id:
                return {
                    "cluster": int(self._columns["cluster"][row]),
                    "distance": float(self._columns["distance"][row]),
                }
        return {"cluster": None, "distance": None}


_painter: "Painter"


def _start_worker(inputs: Inputs, folder: Path) -> None:
    global _painter
    _painter = Painter(inputs, folder)


def _draw(work: _Work) -> dict:
    return _painter.draw(work)


class Painter:
    """Draws images, and describes what was drawn."""

    def __init__(self, inputs: Inputs, folder: Path) -> None:
        self._inputs = inputs
        self._folder = folder
        clusters = inputs.settings["clustering"]["clusters"]
        steps = {step: None for by_step in inputs.steps.values() for step in by_step}
        scored = inputs.metrics["steps"] if inputs.metrics else {}
        own = step_colours(["own"], clusters, None)["own"]
        matched = step_colours(
            [s for s in (*steps, "initial_masks") if s in scored], clusters, inputs.metrics
        )
        self._colours: dict[str, StepColours] = {
            MASKS: matched.get("initial_masks", own),
            CANDIDATES: matched.get("mask_rcnn", own),
        } | {step: matched.get(step, own) for step in steps}
        self._mappings = {step: stored_mapping(inputs.metrics, step) for step in scored}
        self._truth = None
        if inputs.metrics:
            self._split = inputs.metrics["split"]
            self._truth = GroundTruth(inputs.settings["dataset"], inputs.root, self._split)
            names = ["background", *self._truth.class_names]
            self._colours[GROUND_TRUTH] = StepColours(
                label_maps.colours(np.arange(len(names))), names
            )
        threshold = None
        for path in (path for paths in inputs.confident.values() for path in paths[:1]):
            settings = shards.read_metadata(path)["settings"]
            threshold = settings.get("confidence", {}).get("threshold")
        self._threshold = threshold

    # One image

    def draw(self, work: _Work) -> dict:
        """Write an image's script and thumbnails.

        Returns:
            Its row of the index.
        """
        row = work.image
        entry = {
            "id": row["image_id"],
            "name": row["file_name"],
            "split": work.split,
            "shard": row["shard"],
            "status": self._statuses(work),
        }
        if row["status"] != shards.OK:
            return entry | {"reason": row["status"]}
        image = images.read_listed(
            self._inputs.root / row["file_name"], (row["height"], row["width"])
        )
        layers = self._layers(work)
        path = f"{work.split}/{row['shard']:04d}/{row['image_id']}"
        picture = drawing.thumbnail(image, PICTURE_SIZE)
        small = {
            stage: drawing.thumbnail_labels(_without_ignore(labels), PICTURE_SIZE)
            for stage, labels in layers.items()
        }
        content = {
            "picture": drawing.data_uri(picture, quality=82),
            "layers": {
                stage: drawing.data_uri(self._transparent(stage, labels))
                for stage, labels in small.items()
                if stage != CANDIDATES
            },
            "masks": [self._mask(mask) for mask in work.masks],
            "candidates": [
                self._candidate(candidate, work, picture.shape[:2])
                for i, candidate in enumerate(work.candidates)
                if i < CANDIDATES_SHOWN or candidate["candidate_id"] in work.confident
            ],
            "all_candidates": len(work.candidates),
        }
        _write_script(self._folder / "images" / f"{path}.js", "image", [path, content])
        self._write_thumbnails(self._folder / "images" / f"{path}.jpg", image, small)
        best: dict[int, float] = {}
        for candidate in work.candidates:
            best.setdefault(candidate["cluster"], round(candidate["score"], 4))
        return entry | {
            "size": [row["width"], row["height"]],
            "tiles": list(layers),
            "labels": {stage: _labels_in(labels) for stage, labels in layers.items()},
            "scores": [[cluster, score] for cluster, score in best.items()],
            "agreement": self._agreement(layers),
            "masks": sum(mask["status"] == shards.OK for mask in work.masks),
        }

    def _statuses(self, work: _Work) -> list[str]:
        """What went differently from the usual; empty for an image that passed all stages."""
        if work.image["status"] != shards.OK:
            return ["rejected"]
        found = {row["status"] for row in work.masks if row["status"] != shards.OK}
        if work.split in self._inputs.masks and all(r["status"] != shards.OK for r in work.masks):
            found.add("no mask")
        if work.split in self._inputs.candidates:
            if not work.candidates:
                found.add("no candidate")
            elif self._threshold is not None and work.candidates[0]["score"] <= self._threshold:
                found.add("best candidate not above τ")
        return sorted(found)

    def _layers(self, work: _Work) -> dict[str, np.ndarray]:
        """Label maps of all stages, in their order."""
        size = (work.image["height"], work.image["width"])
        clusters = self._inputs.settings["clustering"]["clusters"]
        result = {}
        if work.split in self._inputs.masks:
            assigned = [row for row in work.masks if row["cluster"] and row["rle_counts"]]
            # The one found first on top, as in the label maps.
            result[MASKS] = label_maps.paint(
                size, ((_decode(row), row["cluster"]) for row in reversed(assigned)), clusters
            )
        if work.split in self._inputs.candidates:
            # The most confident one on top, whether or not it is confident enough.
            result[CANDIDATES] = label_maps.paint(
                size,
                ((_decode(row), row["cluster"]) for row in reversed(work.candidates)),
                clusters,
            )
        for step, data in work.label_maps.items():
            result[step] = label_maps.decode_png(data)
        if self._truth is not None and work.split == self._split:
            result[GROUND_TRUTH] = self._truth.semantic(
                work.image["image_id"], work.image["file_name"]
            )
        return result

    def _agreement(self, layers: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Mean IoU with the ground truth of every stage, over the classes of this image."""
        if GROUND_TRUTH not in layers:
            return {}
        clusters = self._inputs.settings["clustering"]["clusters"]
        result = {}
        for stage, labels in layers.items():
            mapping = self._mappings.get("initial_masks" if stage == MASKS else stage)
            if mapping is not None:
                counted = metrics.ConfusionMatrix(len(self._truth.class_names), clusters)
                counted.add(labels, layers[GROUND_TRUTH])
                miou = metrics.scores(counted.counts, mapping).miou
                if np.isfinite(miou):
                    result[stage] = round(miou, 4)
        return result

    def _mask(self, row: Mapping) -> dict:
        area = row["area"] / (row["height"] * row["width"]) if row["area"] else 0
        return {
            "id": row["mask_id"],
            "cluster": row["cluster"],
            "distance": None if row["distance"] is None else float(f"{row['distance']:.4g}"),
            "area": round(area, 5),
            "proposals": row["proposals"],
            "status": row["status"],
        }

    def _candidate(self, row: Mapping, work: _Work, size: tuple[int, int]) -> dict:
        mask = masks.resize_mask(_decode(row), size)
        colour = self._cluster_colour(CANDIDATES, row["cluster"])
        layer = drawing.transparent_png(
            mask.astype(np.uint8), np.stack([colour, colour]), alpha=0.4
        )
        height, width = row["height"], row["width"]
        box = (
            row["x"] / width,
            row["y"] / height,
            row["box_width"] / width,
            row["box_height"] / height,
        )
        return {
            "id": row["candidate_id"],
            "cluster": row["cluster"],
            "score": round(row["score"], 4),
            "area": round(row["area"] / (height * width), 5),
            "box": [round(value, 5) for value in box],
            "confident": row["candidate_id"] in work.confident,
            "layer": drawing.data_uri(layer),
        }

    def _transparent(self, stage: str, labels: np.ndarray) -> bytes:
        colours = self._colours[stage].colours
        return drawing.transparent_png(_without_background(labels, colours), colours)

    def _cluster_colour(self, stage: str, cluster: int) -> np.ndarray:
        """A cluster's colour; grey where it stands for background."""
        colour = self._colours[stage].colours[cluster]
        return colour if colour.any() else np.array([128, 128, 128], np.uint8)

    def _write_thumbnails(
        self, path: Path, image: np.ndarray, layers: Mapping[str, np.ndarray]
    ) -> None:
        height, width = drawing.thumbnail(image, THUMBNAIL_SIZE).shape[:2]
        # Tiles end where the blocks of a JPEG end, so that none bleeds into the next.
        size = (max(8, round(height / 8) * 8), max(8, round(width / 8) * 8))
        small = images.resize(image, size)
        tiles = [small]
        for stage, labels in layers.items():
            colours = self._colours[stage].colours
            shown = masks.resize_mask(_without_background(labels, colours), size)
            tiles.append(drawing.overlay(small, shown, colours))
        path.write_bytes(drawing.jpeg(np.concatenate(tiles), quality=80, subsampling=0))

    # All images

    def index(self, rows: Sequence[Mapping]) -> dict:
        """What the page needs to know of the whole dataset."""
        found = {stage for row in rows for stage in row.get("tiles", ())}
        return {
            "dataset": self._inputs.dataset,
            "threshold": self._threshold,
            "evaluated": self._split if self._truth is not None else None,
            "splits": list(self._inputs.images),
            "stages": [
                {
                    "id": stage,
                    "title": TITLES.get(stage) or step_title(stage),
                    "labels": self._labels(stage),
                }
                for stage in self._colours
                if stage in found
            ],
            "images": rows,
        }

    def _labels(self, stage: str) -> list[dict]:
        colours = self._colours[stage]
        own_names = self._inputs.settings["curation"]["names"]
        result = []
        for label in range(1, len(colours.colours)):
            name = colours.classes[label]
            colour = drawing.css_colour(self._cluster_colour(stage, label))
            if stage == GROUND_TRUTH:
                result.append({"id": label, "name": name, "colour": colour})
            else:
                own = own_names[label - 1]
                if own == category_name(label):
                    own = f"cluster {label}"
                entry = {"id": label, "name": own, "colour": colour}
                result.append(entry | ({"class": name} if name else {}))
        return result


def _decode(row: Mapping) -> np.ndarray:
    return masks.decode(row["rle_counts"], row["height"], row["width"])


def _labels_in(labels: np.ndarray) -> list[int]:
    found = np.unique(_without_ignore(labels))
    return [int(label) for label in found if label]


def _without_ignore(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == label_maps.ignore_value(labels), 0, labels)


def _without_background(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Clusters that stand for background have its colour, black, and are not painted."""
    return np.where((colours == 0).all(axis=1)[labels], 0, labels)


def _write_script(path: Path, function: str, content: object) -> None:
    """A script that hands `content` to the page; plain ASCII, whatever names it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    path.write_text(f"GALLERY.{function}({text});\n", encoding="ascii")
