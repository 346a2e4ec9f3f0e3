"""The columns of every stage's Parquet files, and a description of each stage."""

import functools
from typing import NamedTuple

import pyarrow as pa

VECTOR = "vector"  # float32; its length is the backbone's embedding size


class Stage(NamedTuple):
    """The kind of Parquet file that one stage writes."""

    title: str
    columns: dict[str, pa.DataType | str]


_BOX = dict.fromkeys(("x", "y", "box_width", "box_height", "area"), pa.float32())
_CANDIDATES = {
    "image_id": pa.int64(),
    "candidate_id": pa.int64(),
    "cluster": pa.int32(),
    "score": pa.float32(),
    **_BOX,
    "rle_counts": pa.binary(),
    "height": pa.int32(),
    "width": pa.int32(),
}
_LABEL_MAPS = {
    "image_id": pa.int64(),
    "file_name": pa.string(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
}

STAGES = {
    "images": Stage(
        "manifest of the images",
        {
            "image_id": pa.int64(),
            "file_name": pa.string(),
            "height": pa.int32(),
            "width": pa.int32(),
            "shard": pa.int32(),
            "status": pa.string(),
        },
    ),
    "features": Stage(
        "keys of the patches, and their affinity to [CLS]",
        {
            "image_id": pa.int64(),
            "grid_height": pa.int32(),
            "grid_width": pa.int32(),
            "resized_height": pa.int32(),
            "resized_width": pa.int32(),
            # heads x N. Rounding to float16 could make another of two similar patches the source.
            "cls_affinity": pa.list_(pa.float32()),
            "keys": pa.list_(pa.float16()),  # N x (heads x head size)
            # (1 + N) x d, [CLS] first; null unless `features.tokens` is set.
            "tokens": pa.list_(pa.float16()),
            "status": pa.string(),
        },
    ),
    "masks": Stage(
        "object masks from the affinities (Eq. 1 and 2)",
        {
            "image_id": pa.int64(),
            "mask_id": pa.int64(),  # 0, 1, … within the image
            "height": pa.int32(),
            "width": pa.int32(),
            "rle_counts": pa.binary(),
            **_BOX,
            "source_row": pa.int32(),
            "source_col": pa.int32(),
            "proposals": pa.int32(),
            "share": pa.float32(),  # share of the image's pixels that the mask covers, 0..1
            # Share of the variance of the image's keys that lies between the mask and the rest.
            "quality": pa.float32(),
            "status": pa.string(),
        },
    ),
    "mask_embeddings": Stage(
        "[CLS] of the masked objects",
        {"image_id": pa.int64(), "mask_id": pa.int64(), "embedding": VECTOR},
    ),
    "mask_map": Stage(
        "two-dimensional map of the masks, by their embeddings",
        {
            "image_id": pa.int64(),
            "mask_id": pa.int64(),
            "x": pa.float32(),  # 0..1
            "y": pa.float32(),  # 0..1
        },
    ),
    "assignments": Stage(
        "clusters of the masks",
        {
            "image_id": pa.int64(),
            "mask_id": pa.int64(),
            "cluster": pa.int32(),
            "distance": pa.float32(),
        },
    ),
    "centroids": Stage(
        "centroids of the clusters",
        {"cluster": pa.int32(), "size": pa.int64(), "centroid": VECTOR},
    ),
    "candidates": Stage("scored candidates of Mask R-CNN", _CANDIDATES),
    "confident": Stage("confident candidates", _CANDIDATES),
    "label_maps": Stage("label maps", _LABEL_MAPS),
    "predictions": Stage("label maps that the segmentation model predicts", _LABEL_MAPS),
    "per_class": Stage(
        "scores by class",
        {
            "step": pa.string(),
            "matching": pa.string(),  # hungarian, majority (overclustering), or supervised
            "class": pa.string(),
            "iou": pa.float64(),  # 0..1; null for a class without any pixel
            "clusters": pa.string(),  # separated by spaces
        },
    ),
}


@functools.cache
def schema(stage: str, embedding_size: int | None = None) -> pa.Schema:
    """The columns of one stage's shards.

    Args:
        stage: a key of `STAGES`.
        embedding_size: length of the vectors of mask_embeddings and centroids.
    """
    vector = pa.list_(pa.float32(), embedding_size or 1)
    columns = STAGES[stage].columns
    return pa.schema([(name, vector if kind == VECTOR else kind) for name, kind in columns.items()])
