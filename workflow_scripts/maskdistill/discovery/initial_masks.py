"""Initial masks from features, as rows of a shard; works with any method of finding masks.

An image without a usable mask still has a row, whose `status` says why the mask is not used.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.discovery import affinity, mask_pixels, patch_scores
from workflow_scripts.maskdistill.files import image_sizes, masks, shards
from workflow_scripts.maskdistill.files import images as image_files
from workflow_scripts.maskdistill.files.schemas import STAGES
from workflow_scripts.maskdistill.progress import progress
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

# Columns of the features that masks are made from: all but the tokens.
_COLUMNS = [name for name in STAGES["features"].columns if name != "tokens"]
# Function (keys N x d, affinities with [CLS] heads x N, (rows, columns) of the grid) → masks.
Finder = Callable[[np.ndarray, np.ndarray, tuple[int, int]], Iterable[affinity.ObjectMask]]


def write_masks(
    images: Path,
    features: Path,
    output: Path,
    find: Finder,
    metadata: Mapping,
    *,
    settings: MaskSettings | None = None,
    root: Path | None = None,
    refine: mask_pixels.Refiner | None = None,
) -> None:
    """Write the masks of one shard.

    Args:
        images: the shard's manifest.
        features: the shard's features.
        output: Parquet file to write.
        find: finds the masks of one image.
        metadata: see `provenance.record`; the digest of the backbone's weights is added.
        settings, refine: see `mask_rows`.
        root: folder that file names are relative to, for `settings.refinement`.

    Raises:
        InputError: features and manifest have different images, or an image file has changed.
    """
    listed = {row["image_id"]: row for row in shards.read_usable(images)}
    made = shards.read_metadata(features)
    patch_size = made["patch_size"]
    metadata = {**metadata, "weights": made.get("weights")}
    seen, statuses = set(), Counter()
    with shards.shard_writer(output, "masks", metadata) as writer:
        for row in progress(
            shards.read_rows(features, _COLUMNS, batch_size=16),
            description="masks",
            unit="image",
            total=len(listed),
        ):
            image = listed[row["image_id"]]
            size = (image["height"], image["width"])
            seen.add(row["image_id"])
            if refine is not None and row["status"] == shards.OK:
                resized = (row["resized_height"], row["resized_width"])
                original = image_files.read_listed(root / image["file_name"], size)
                row["image"] = image_sizes.resize(original, resized)
            for mask_row in mask_rows(row, size, patch_size, find, settings, refine):
                statuses[mask_row["status"]] += 1
                writer.write(mask_row)
        shards.assert_same_images(listed, seen, str(features))
    print(describe(statuses))


def mask_rows(
    features: Mapping,
    size: tuple[int, int],
    patch_size: int,
    find: Finder,
    settings: MaskSettings | None = None,
    refine: mask_pixels.Refiner | None = None,
) -> Iterator[dict]:
    """The rows of one image's masks, at least one.

    Args:
        features: a row of a shard of features. If masks are refined, it also needs `image`: the
            backbone's input without padding (height x width x 3, uint8).
        size: (height, width) of the original image.
        patch_size: side of the backbone's patches in pixels.
        find: finds the masks.
        settings: how masks are drawn, and how large they may be; None for the defaults.
        refine: refines masks, see `mask_pixels.draw`; None if `settings.refinement` is none.
    """
    settings = settings or MaskSettings()
    row = {"image_id": features["image_id"], "height": size[0], "width": size[1]}
    if features["status"] != shards.OK:
        yield {**row, "mask_id": 0, "status": features["status"]}
        return
    grid = (features["grid_height"], features["grid_width"])
    patches = grid[0] * grid[1]
    keys = features["keys"].reshape(patches, -1)
    resized = (features["resized_height"], features["resized_width"])
    image = None
    if refine is not None:
        # A copy, because the CRF needs an array that can be written to.
        working_size = mask_pixels.refined_size(resized, settings)
        image = np.array(image_sizes.resize(features["image"], working_size))
    taken, mask_id = np.zeros(size, bool), 0
    for mask in find(keys, features["cls_affinity"].reshape(-1, patches), grid):
        drawn = mask_pixels.draw(
            mask,
            settings,
            patch_size=patch_size,
            resized=resized,
            size=size,
            image=image,
            refine=refine,
        )
        # Refined masks may overlap; a pixel of several masks stays in the earliest one only.
        drawn &= ~taken
        taken |= drawn
        parts = [(drawn, mask.grid)]
        if settings.split_components:
            most = settings.per_image - mask_id
            parts = [
                (part, masks.image_to_grid(part, grid, patch_size=patch_size, resized=resized))
                for part in mask_pixels.components(
                    drawn, least_share=settings.least_share, most=most
                )
            ]
        for pixels, inside in parts:
            encoded = masks.encode(pixels)
            share = encoded.area / pixels.size
            yield {
                **row,
                **encoded._asdict(),
                "mask_id": mask_id,
                "source_row": mask.source[0],
                "source_col": mask.source[1],
                "proposals": mask.proposals,
                "share": share,
                "quality": patch_scores.separation(keys, inside),
                "status": _status(share, settings),
            }
            mask_id += 1
        if settings.split_components and mask_id == settings.per_image:
            break


def _status(share: float, settings: MaskSettings) -> str:
    """The status of a mask that covers this share of the image: ok, or why it is not used."""
    if share == 0:
        return "empty mask"
    if share == 1:
        return masks.WHOLE_IMAGE
    if share < settings.least_share:
        return "too small"
    if share > settings.largest_share:
        return "too large"
    return shards.OK


def describe(statuses: Mapping[str, int]) -> str:
    """One line for the log: how many masks are used, and why the others are not."""
    used = statuses.get(shards.OK, 0)
    others = [
        f"{count} {status}" for status, count in sorted(statuses.items()) if status != shards.OK
    ]
    return f"masks: {used} used" + (f"; not used: {', '.join(others)}" if others else "")
