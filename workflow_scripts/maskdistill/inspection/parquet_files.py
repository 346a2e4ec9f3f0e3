"""Descriptions and checks of Parquet files of every stage."""

import collections
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks, schemas, shards
from workflow_scripts.maskdistill.inspection import image_files, terminal
from workflow_scripts.maskdistill.inspection.blocks import (
    CLUSTERS_SHOWN,
    Lines,
    counts,
    damaged,
    distributions,
    provenance,
)
from workflow_scripts.maskdistill.progress import progress

IDENTIFIERS = {"image_id", "mask_id", "candidate_id", "shard", "cluster"}


def title_of(paths: Sequence[Path]) -> tuple[str, int]:
    """Title and number of rows of the shards of one stage, read from their footers.

    Raises:
        InputError: the file is damaged, or not written by this workflow.
    """
    return _kind(paths[0])[1], sum(map(shards.count_rows, paths))


def _kind(path: Path) -> tuple[str, str]:
    """Stage and title of a Parquet file.

    The file records its stage. If the columns of this stage differ, or `schemas.STAGES` lacks it,
    the stage is found by the columns. For example, both `assignments` and `centroids` record the
    stage `clusters`.
    """
    names = shards.read_schema(path).names
    stage = shards.read_metadata(path)["stage"]
    for candidate in (stage, *schemas.STAGES):
        if candidate in schemas.STAGES and names == list(schemas.STAGES[candidate].columns):
            return candidate, schemas.STAGES[candidate].title
    raise InputError(
        f"{path}: its columns ({', '.join(names)}) are not those of the stage '{stage}'; "
        "another version of the workflow made it; remove it and run again"
    )


def shards_of_a_stage(paths: Sequence[Path], sample: int, *, check: bool = False) -> Lines:
    """Describe the content of shards and how they were made.

    Args:
        sample: number of label maps that are decoded, evenly spread; 0 for all.
        check: also read every byte and decode every mask and label map.

    Raises:
        InputError: the file is damaged, or not written by this workflow.
    """
    rows = sum(map(shards.count_rows, paths))
    stage, title = _kind(paths[0])
    bytes_ = sum(path.stat().st_size for path in paths)
    where = paths[0] if len(paths) == 1 else paths[0].parent
    of = f" in {len(paths)} shards" if len(paths) > 1 else ""
    yield terminal.plain(where)
    yield f"  {title}: {rows:,} rows{of}, {terminal.size(bytes_)}"
    if stage == "per_class":
        table = shards.read_table(paths)
        body = [list(row.values()) for row in table.to_pylist()]
        yield from ["", *terminal.table(table.column_names, body)]
        return
    yield from _provenance_of_shards(paths, stage)
    if stage in ("label_maps", "predictions"):
        yield from image_files.label_map_shards(paths, rows, 0 if check else sample)
    else:
        yield from _columns(paths, stage)
    if check:
        yield from _check(paths, stage)


def _provenance_of_shards(paths: Sequence[Path], stage: str) -> Lines:
    """How the shards were made, which should be the same for all shards of a stage."""
    found: dict[str, list[Path]] = collections.defaultdict(list)
    for path in paths:
        if _kind(path)[0] != stage:
            raise InputError(f"{path}: of another stage than {paths[0]}; give one stage at a time")
        # Each shard has its own input files and its own list of images.
        alike = {
            key: value
            for key, value in shards.read_metadata(path).items()
            if key not in ("inputs", "listing")
        }
        found[json.dumps(alike, sort_keys=True)].append(path)
    yield from provenance(json.loads(next(iter(found))))
    if len(found) > 1:
        yield ""
        yield f"  CAUTION: made in {len(found)} different ways; the first is shown. Files of each:"
        for group in found.values():
            yield f"    {len(group)} files, {group[0].name} among them"


def _columns(paths: Sequence[Path], stage: str) -> Lines:
    """Statuses, rows per image, and the distribution of every column of numbers."""
    names = schemas.schema(stage).names
    if "status" in names:
        statuses = shards.read_table(paths, ["status"])["status"].to_pylist()
        yield from counts("status", collections.Counter(map(str, statuses)))
    if "image_id" in names:
        yield from _rows_an_image(paths, stage, names)
    plain = [
        field.name
        for field in schemas.schema(stage)
        if (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
        and field.name not in IDENTIFIERS
    ]
    columns = {name: _numbers(shards.read_table(paths, [name])[name]) for name in plain} | _derived(
        paths, stage
    )
    yield from distributions(columns)
    if "cluster" in names and stage != "centroids":
        yield from _clusters(shards.read_table(paths, ["cluster"])["cluster"])


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.drop_null().to_numpy()


def _derived(paths: Sequence[Path], stage: str) -> dict[str, np.ndarray]:
    """Further quantities, computed from a stage's columns, whose distribution is informative."""
    if stage in ("masks", "candidates", "confident"):
        table = shards.read_table(paths, ["area", "height", "width"]).drop_null()
        share = pc.divide(table["area"], pc.multiply(table["height"], table["width"]))
        return {"area / image": _numbers(share)}
    if stage == "features":
        result = collections.defaultdict(list)
        for path in paths:
            columns = ["grid_height", "grid_width", "cls_affinity"]
            # A few rows at a time, because keys and affinities are large.
            for row in shards.read_rows(path, columns, batch_size=16):
                if row["cls_affinity"] is not None:
                    patches = row["grid_height"] * row["grid_width"]
                    affinity = row["cls_affinity"].reshape(-1, patches)
                    mean = affinity.mean(axis=0)
                    result["patches"].append(patches)
                    result["heads"].append(len(affinity))
                    result["affinity to [CLS], least"].append(mean.min())
                    result["affinity to [CLS], most"].append(mean.max())
        return {name: np.array(values) for name, values in result.items()}
    if stage in ("mask_embeddings", "centroids"):
        name = "embedding" if stage == "mask_embeddings" else "centroid"
        column = shards.read_table(paths, [name])[name].combine_chunks()
        vectors = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        result = {
            "dimensions": np.full(len(vectors), column.type.list_size),
            "norm": np.linalg.norm(vectors, axis=1),
        }
        if stage == "centroids" and len(vectors) > 1:
            unit = vectors / np.maximum(result["norm"][:, None], 1e-12)
            cosine = unit @ unit.T
            np.fill_diagonal(cosine, -1)
            result["cosine to the nearest other"] = cosine.max(axis=1)
        return result
    return {}


def _rows_an_image(paths: Sequence[Path], stage: str, names: Sequence[str]) -> Lines:
    """Number of images, and of masks or candidates per image.

    An image without candidates has one row with an empty candidate_id, which is not counted.
    """
    columns = ["image_id"] + [n for n in ("candidate_id",) if n in names]
    table = shards.read_table(paths, columns)
    total = pc.count_distinct(table["image_id"]).as_py()
    per_image = ""
    if stage in ("masks", "mask_embeddings", "assignments", "candidates", "confident"):
        if "candidate_id" in names:
            table = table.filter(pc.is_valid(table["candidate_id"]))
        each = _numbers(pc.value_counts(table["image_id"].combine_chunks()).field("counts"))
        if each.size:
            what = "candidates" if "candidate_id" in names else "masks"
            least, most = each.min() if each.size == total else 0, each.max()
            per_image = f", with {least} to {most} {what} each, {each.sum() / total:.3g} on average"
        if each.size < total:
            per_image += f"; {total - each.size:,} without any"
    yield from ["", f"  {total:,} images{per_image}"]


def _clusters(column: pa.ChunkedArray) -> Lines:
    sizes = collections.Counter(column.drop_null().to_pylist())
    if not sizes:
        return
    most = max(sizes.values())
    shown = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:CLUSTERS_SHOWN]
    rows = [[str(cluster), count, terminal.bar(count / most)] for cluster, count in shown]
    yield from ["", *terminal.table(["cluster", "rows", ""], rows)]
    if len(sizes) > len(shown):
        yield f"  … and {len(sizes) - len(shown)} smaller clusters"


def _check(paths: Sequence[Path], stage: str) -> Lines:
    """Read all rows and decode every mask."""
    decoded = 0
    for path in progress(paths, description="check", unit="shard"):
        for row in shards.read_rows(path, batch_size=16):
            lengths = row.get("rle_counts")
            if lengths is not None:
                try:
                    areas = {
                        masks.area(lengths, row["height"], row["width"]),
                        int(masks.decode(lengths, row["height"], row["width"]).sum()),
                    }
                except Exception as error:  # damaged masks raise many types in pycocotools
                    what = f"a mask of image {row['image_id']} cannot be decoded"
                    raise damaged(path, what, error) from error
                if areas != {row["area"]}:
                    pixels = " or ".join(map(str, sorted(areas)))
                    raise damaged(
                        path,
                        f"a mask of image {row['image_id']} has {pixels} pixels, but its area is "
                        f"said to be {row['area']:g}",
                    )
                decoded += 1
    extra = f", {decoded:,} masks decoded" if decoded else ""
    yield from ["", f"  checked: every row can be read{extra}"]
