"""Turns features into rows of the masks stage, by any method that finds masks on the grid.

An image without a mask has one row, whose `status` says why.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.files import masks, shards
from workflow_scripts.maskdistill.progress import progress

# Keys (N x d), affinities with [CLS] (heads x N) and the grid's (rows, columns) → masks.
Finder = Callable[[np.ndarray, np.ndarray, tuple[int, int]], Iterable[affinity.ObjectMask]]


def write_masks(
    images: Path, features: Path, output: Path, find: Finder, metadata: Mapping
) -> None:
    """Write the masks of one shard.

    Args:
        images: the shard's manifest.
        features: the shard's features.
        output: Parquet file to write.
        find: finds the masks of one image.
        metadata: see `provenance.record`; the weights digest of the features is added.

    Raises:
        InputError: features and manifest have different images.
    """
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in shards.read_usable(images)}
    made = shards.read_metadata(features)
    patch_size = made["patch_size"]
    metadata = {**metadata, "weights": made.get("weights")}
    seen = set()
    with shards.shard_writer(output, "masks", metadata) as writer:
        for row in progress(
            shards.read_rows(features, batch_size=16),
            description="masks",
            unit="image",
            total=len(sizes),
        ):
            size = sizes[row["image_id"]]
            seen.add(row["image_id"])
            for mask_row in mask_rows(row, size, patch_size, find):
                writer.write(mask_row)
        shards.assert_same_images(sizes, seen, str(features))


def mask_rows(
    features: Mapping, size: tuple[int, int], patch_size: int, find: Finder
) -> Iterator[dict]:
    """The rows of one image's masks, at least one.

    Args:
        features: a row of the features stage.
        size: (height, width) of the original image.
        patch_size: of the backbone, in pixels.
        find: finds the masks.
    """
    row = {"image_id": features["image_id"], "height": size[0], "width": size[1]}
    if features["status"] != shards.OK:
        yield {**row, "mask_id": 0, "status": features["status"]}
        return
    grid = (features["grid_height"], features["grid_width"])
    patches = grid[0] * grid[1]
    found = find(
        features["keys"].reshape(patches, -1), features["cls_affinity"].reshape(-1, patches), grid
    )
    for mask_id, mask in enumerate(found):
        encoded = masks.encode(
            masks.grid_to_image(
                mask.grid,
                patch_size=patch_size,
                resized=(features["resized_height"], features["resized_width"]),
                size=size,
            )
        )
        yield {
            **row,
            **encoded._asdict(),
            "mask_id": mask_id,
            "source_row": mask.source[0],
            "source_col": mask.source[1],
            "proposals": mask.proposals,
            # A mask of padding only can become empty when the grid is scaled to the image.
            "status": shards.OK if encoded.area else "empty mask",
        }
