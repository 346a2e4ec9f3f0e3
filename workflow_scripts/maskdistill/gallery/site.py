"""Writes the files of the gallery's page; its data are JavaScript files.

A page that is opened from disk cannot fetch other files, so all data are scripts. `index.js` has a
row for every image, for filters. Each image has its own script with its picture and overlays, which
is loaded when the image is opened. The thumbnails of all stages of an image are one JPEG.
"""

import concurrent.futures
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.files import cluster_files, images, label_maps, shards
from workflow_scripts.maskdistill.files.atomic import atomic_folder
from workflow_scripts.maskdistill.files.masks import decode_row
from workflow_scripts.maskdistill.gallery import thumbnails
from workflow_scripts.maskdistill.gallery.stage_files import (
    GalleryInputs,
    Record,
    check_shards,
    count_images,
    records,
)
from workflow_scripts.maskdistill.gallery.stages import CANDIDATES, Stages
from workflow_scripts.maskdistill.pictures import drawing, overlays
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.streaming import PIXELS_AHEAD, map_ahead

CANDIDATES_SHOWN = 24  # most candidates per image; all confident ones are shown
# Written as whole paths, so that the digest of the gallery's code includes these files.
PAGE_FILES = (
    "workflow_scripts/maskdistill/templates/gallery/index.html",
    "workflow_scripts/maskdistill/templates/gallery/gallery.css",
    "workflow_scripts/maskdistill/templates/gallery/gallery.js",
)


def write(inputs: GalleryInputs, folder: Path, *, record: Mapping, workers: int = 1) -> None:
    """Write the gallery; `folder` is replaced as a whole.

    Memory holds one shard of each stage at a time, and one row of the index for every image.

    Args:
        record: provenance record of the folder.
        workers: number of drawing processes.

    Raises:
        InputError: an input is missing, damaged, or does not fit the others.
    """
    check_shards(inputs)
    rows = []
    with atomic_folder(folder, record) as temporary:
        writer = Writer(inputs, temporary)
        with (
            concurrent.futures.ProcessPoolExecutor(
                workers, initializer=_start_worker, initargs=(inputs, temporary)
            ) as pool,
            progress_bar(total=count_images(inputs), description="gallery", unit="image") as bar,
        ):
            # The queue is short, so that it never holds a whole shard.
            for row in map_ahead(
                pool,
                _write_image,
                records(inputs),
                ahead=4 * workers,
                weight=lambda record: (record.image["height"] or 0) * (record.image["width"] or 0),
                most_weight=PIXELS_AHEAD,
            ):
                rows.append(row)
                bar.update()
        _write_script(temporary / "index.js", "index", writer.index(rows))
        for name in PAGE_FILES:
            shutil.copy(REPOSITORY / name, temporary)


_writer: "Writer"


def _start_worker(inputs: GalleryInputs, folder: Path) -> None:
    global _writer
    _writer = Writer(inputs, folder)


def _write_image(record: Record) -> dict:
    return _writer.write_image(record)


class Writer:
    """Writes the files of each image, and returns its row of the index."""

    def __init__(self, inputs: GalleryInputs, folder: Path) -> None:
        self._inputs = inputs
        self._folder = folder
        self._stages = Stages(inputs)
        threshold = None
        for path in (path for paths in inputs.confident.values() for path in paths[:1]):
            settings = shards.read_metadata(path)["settings"]
            threshold = settings.get("confidence", {}).get("threshold")
        self._threshold = threshold

    def write_image(self, record: Record) -> dict:
        """Write an image's script and thumbnails.

        Returns:
            Its row of the index.
        """
        row = record.image
        entry = {
            "id": row["image_id"],
            "name": row["file_name"],
            "split": record.split,
            "shard": row["shard"],
            "status": self._statuses(record),
        }
        if row["status"] != shards.OK:
            return entry | {"reason": row["status"]}
        image = images.read_listed(
            self._inputs.root / row["file_name"], (row["height"], row["width"])
        )
        layers = self._stages.layers(record)
        colours = {stage: self._stages.colours(stage) for stage in layers}
        picture = drawing.thumbnail(image, thumbnails.PICTURE_SIZE)
        small = {
            stage: overlays.shown(labels, colours[stage], picture.shape[:2])
            for stage, labels in layers.items()
        }
        path = f"{record.split}/{row['shard']:04d}/{row['image_id']}"
        content = self._content(record, picture, small)
        _write_script(self._folder / "images" / f"{path}.js", "image", [path, content])
        tiles = thumbnails.tiles(image, small, colours)
        (self._folder / "images" / f"{path}.jpg").write_bytes(tiles)
        best: dict[int, float] = {}
        for candidate in record.candidates:
            best.setdefault(candidate["cluster"], round(candidate["score"], 4))
        return entry | {
            "size": [row["width"], row["height"]],
            "tiles": list(layers),
            "labels": {stage: _labels_in(labels) for stage, labels in layers.items()},
            "scores": [[cluster, score] for cluster, score in best.items()],
            "agreement": self._stages.agreement(layers),
            "masks": sum(mask["status"] == shards.OK for mask in record.masks),
        }

    def _statuses(self, record: Record) -> list[str]:
        """Notable results of an image; empty if it passed all stages normally."""
        if record.image["status"] != shards.OK:
            return ["rejected"]
        found = {row["status"] for row in record.masks if row["status"] != shards.OK}
        if record.split in self._inputs.masks and all(
            row["status"] != shards.OK for row in record.masks
        ):
            found.add("no mask")
        if record.split in self._inputs.candidates:
            if not record.candidates:
                found.add("no candidate")
            elif self._threshold is not None and record.candidates[0]["score"] <= self._threshold:
                found.add("best candidate not above τ")
        return sorted(found)

    def _content(
        self, record: Record, picture: np.ndarray, layers: Mapping[str, np.ndarray]
    ) -> dict:
        """An image's picture and overlays, and data of its masks and candidates."""
        return {
            "picture": drawing.data_uri(picture, quality=82),
            "layers": {
                stage: drawing.data_uri(
                    drawing.transparent_png(labels, self._stages.colours(stage))
                )
                for stage, labels in layers.items()
                if stage != CANDIDATES
            },
            "masks": [_mask(mask) for mask in record.masks],
            "candidates": [
                self._candidate(candidate, record, picture.shape[:2])
                for i, candidate in enumerate(record.candidates)
                if i < CANDIDATES_SHOWN or candidate["candidate_id"] in record.confident
            ],
            "all_candidates": len(record.candidates),
        }

    def _candidate(self, row: Mapping, record: Record, size: tuple[int, int]) -> dict:
        colour = overlays.visible(self._stages.colours(CANDIDATES)[row["cluster"]])
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
            "confident": row["candidate_id"] in record.confident,
            "layer": drawing.data_uri(thumbnails.candidate_overlay(decode_row(row), colour, size)),
        }

    def index(self, rows: Sequence[Mapping]) -> dict:
        """The page's data about the whole dataset."""
        found = {stage for row in rows for stage in row.get("tiles", ())}
        return {
            "dataset": self._inputs.dataset,
            "threshold": self._threshold,
            "evaluated": self._stages.evaluated,
            "matched": self._stages.matched,
            "splits": list(self._inputs.images),
            "stages": [self._stages.described(stage) for stage in self._stages if stage in found],
            "images": rows,
            "map": self._places(),
        }

    def _places(self) -> list[list]:
        """Every mask on the map as [image_id, cluster, x, y] with x and y in 0..1."""
        if self._inputs.mask_map is None:
            return []
        classes = self._inputs.settings["curation"]["classes"]
        clusters: dict[tuple[int, int], int] = {}
        for paths in self._inputs.assignments.values():
            for path in paths:
                clusters |= cluster_files.read_classes(path, classes)
        return [
            [
                row["image_id"],
                clusters.get((row["image_id"], row["mask_id"]), 0),
                round(row["x"], 4),
                round(row["y"], 4),
            ]
            for row in shards.read_rows(self._inputs.mask_map)
        ]


def _mask(row: Mapping) -> dict:
    area = row["area"] / (row["height"] * row["width"]) if row["area"] else 0
    return {
        "id": row["mask_id"],
        "cluster": row["cluster"],
        "distance": None if row["distance"] is None else float(f"{row['distance']:.4g}"),
        "area": round(area, 5),
        "proposals": row["proposals"],
        "status": row["status"],
    }


def _labels_in(labels: np.ndarray) -> list[int]:
    found = np.unique(label_maps.without_ignore(labels))
    return [int(label) for label in found if label]


def _write_script(path: Path, function: str, content: object) -> None:
    """Write a script that passes `content` to a function of gallery.js; non-ASCII is escaped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    path.write_text(f"GALLERY.{function}({text});\n", encoding="ascii")
