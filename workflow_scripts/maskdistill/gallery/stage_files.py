"""The input files of a gallery: the shards of all stages, read image by image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.pictures import overlays

ShardsBySplit = Mapping[str, Sequence[Path]]


@dataclass(frozen=True, kw_only=True)
class GalleryInputs:
    """The inputs of a gallery for one seed; shards of all stages are in the same order."""

    dataset: str
    root: Path
    settings: Mapping  # `dataset`, `clustering.clusters` and `curation` of the config
    images: ShardsBySplit  # manifests
    masks: ShardsBySplit
    assignments: ShardsBySplit  # one per shard of masks, or one file for all masks
    candidates: ShardsBySplit
    confident: ShardsBySplit
    steps: Mapping[str, Mapping[str, Sequence[Path]]]  # split → step → label maps
    mask_map: Path | None = None  # places of the masks; if None, there is no map
    metrics: Mapping | None = None  # metrics.json; if None, no label is read


@dataclass(frozen=True, kw_only=True)
class Record:
    """The rows of all stages for one image."""

    split: str
    image: Mapping  # row of the manifest
    masks: Sequence[Mapping]  # with cluster and distance
    candidates: Sequence[Mapping]  # the best first
    confident: frozenset[int]  # candidate ids
    label_maps: Mapping[str, bytes]  # step → PNG


def check_shards(inputs: GalleryInputs) -> None:
    """Check that all stages of a split have as many shards as there are manifests, or none.

    Raises:
        InputError: a stage has another number of shards.
    """
    for split, manifests in inputs.images.items():
        stages = {
            "masks": inputs.masks,
            "candidates": inputs.candidates,
            "confident": inputs.confident,
        }
        given = {stage: paths.get(split, []) for stage, paths in stages.items()}
        for stage, paths in (given | dict(inputs.steps.get(split, {}))).items():
            if len(paths) not in (0, len(manifests)):
                raise InputError(
                    f"{stage} of {split}: {len(paths)} shards, but {len(manifests)} manifests; "
                    "give the shards of all stages in the same order"
                )


def count_images(inputs: GalleryInputs) -> int:
    """Number of images of all splits, including rejected ones."""
    return sum(shards.count_rows(path) for paths in inputs.images.values() for path in paths)


def records(inputs: GalleryInputs) -> Iterator[Record]:
    """Yield every image of every split; one shard of each stage at a time is in memory.

    Raises:
        InputError: a shard is missing, damaged, or has other images than its manifest.
    """
    for split, manifests in inputs.images.items():
        assigned = Assignments(
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
                yield Record(
                    split=split,
                    image=image,
                    masks=[
                        row | assigned.of(image_id, row["mask_id"])
                        for row in mask_rows.get(image_id, [])
                    ],
                    candidates=overlays.ranked(candidates.get(image_id, [])),
                    confident=frozenset(
                        row["candidate_id"] for row in overlays.ranked(confident.get(image_id, []))
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


class Assignments:
    """Pseudo-classes of many masks, in little memory; 0 if config/names makes them background."""

    def __init__(self, paths: Sequence[Path], classes: Sequence[int] | None) -> None:
        columns = ["image_id", "mask_id", "cluster", "distance"]
        table = shards.read_table(paths, columns) if paths else None
        self._columns = {name: table[name].to_numpy() if table else np.zeros(0) for name in columns}
        if table and classes is not None:
            self._columns["cluster"] = np.array([0, *classes])[self._columns["cluster"]]
        self._order = np.argsort(self._columns["image_id"], kind="stable")
        self._ids = self._columns["image_id"][self._order]

    def of(self, image_id: int, mask_id: int) -> dict:
        """`cluster` and `distance` of a mask; None for both if it was not clustered."""
        first, last = np.searchsorted(self._ids, [image_id, image_id + 1])
        for row in self._order[first:last]:
            if self._columns["mask_id"][row] == mask_id:
                return {
                    "cluster": int(self._columns["cluster"][row]),
                    "distance": float(self._columns["distance"][row]),
                }
        return {"cluster": None, "distance": None}
