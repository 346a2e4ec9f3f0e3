"""Initial masks in the place of Mask R-CNN's candidates, for runs that train no Mask R-CNN."""

import os
from collections.abc import Iterator, Mapping, Sequence

from workflow_scripts.maskdistill.files import cluster_files, shards

_COLUMNS = ("x", "y", "box_width", "box_height", "area", "rle_counts", "height", "width")


def write(
    output: str | os.PathLike,
    images: str | os.PathLike,
    masks: str | os.PathLike,
    assignments: str | os.PathLike,
    *,
    classes: Sequence[int] | None,
    metadata: Mapping,
) -> None:
    """Write the masks of one shard as candidates, ordered within an image by falling quality.

    Masks of dropped clusters are left out. An image without any mask has one row with an image_id
    only, as in Mask R-CNN's candidates.

    Args:
        output: Parquet file to write.
        images, masks: files of the shard's manifest and of its masks.
        assignments: Parquet file that has the clusters of these masks.
        classes: the classes of clusters 1, 2, …; None if every cluster is its own class.
        metadata: see `provenance.record`.

    Raises:
        InputError: masks and manifest have different images.
    """
    usable = [row["image_id"] for row in shards.read_usable(images)]
    by_image = shards.group_by_image(masks)
    shards.assert_same_images(usable, by_image, str(masks))
    class_of = cluster_files.read_classes(assignments, classes, by_image)
    with shards.shard_writer(output, "candidates", metadata) as writer:
        for image_id in usable:
            for row in _candidates(image_id, by_image[image_id], class_of):
                writer.write(row)


def _candidates(
    image_id: int, masks: Sequence[Mapping], class_of: Mapping[tuple[int, int], int]
) -> Iterator[dict]:
    found = [
        (class_id, row)
        for row in masks
        if row["status"] == shards.OK and (class_id := class_of[image_id, row["mask_id"]])
    ]
    found.sort(key=lambda item: (-item[1]["quality"], item[1]["mask_id"]))
    if not found:
        yield {"image_id": image_id}
    for number, (class_id, row) in enumerate(found):
        candidate = {"image_id": image_id, "candidate_id": number, "cluster": class_id}
        yield candidate | {"score": row["quality"]} | {name: row[name] for name in _COLUMNS}
