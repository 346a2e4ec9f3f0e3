"""Features of images: queries and keys of the backbone's last attention block, and its tokens.

Images are resized so that their shorter side has a given length, padded to whole patches, and
grouped by shape into batches. In the last block, only the query of [CLS] and the keys of the
patches are computed, because Eq. 1 and 2 need nothing else, unless its tokens are stored, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.files import image_sizes, images, shards
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.streaming import prefetch, stream_batches
from workflow_scripts.maskdistill.torch_tools.device import choose_device, start_copy_to_host

Batch = list[tuple[Mapping, np.ndarray | images.ImageRejected]]


def load_backbone(settings: FeatureSettings, device: str) -> Backbone:
    """The backbone that the section `features` names, on a device (see `choose_device`)."""
    return Backbone(
        settings.backbone,
        options=settings.backbone_options,
        weights=settings.weights,
        precision=settings.precision,
    ).to(choose_device(device))


def feature_rows(
    backbone: Backbone,
    settings: FeatureSettings,
    listed: Sequence[Mapping],
    root: Path,
    *,
    batch_size: int,
    workers: int,
    fetch: bool = True,
    keep_images: bool = False,
    with_tokens: bool = False,
) -> Iterator[dict]:
    """Compute the features of images, as rows of a shard of features.

    On a GPU the next batch is computed while the rows of the current one are used.

    Args:
        listed: rows of a manifest with usable images.
        root: folder that the file names are relative to.
        batch_size: the most images, all of one shape, in one pass.
        workers: threads that decode images.
        fetch: copy affinities and keys to the CPU's memory; otherwise rows hold tensors on the
            backbone's device, and no batch is computed ahead.
        keep_images: rows also have `image`, the backbone's input without padding.
        with_tokens: rows also have the tokens of the last block.
    """

    def size(row: Mapping) -> tuple[int, int]:
        return image_sizes.resized_size(
            row["height"],
            row["width"],
            shorter_side=settings.side(),
            longer_side=settings.longer_side,
        )

    def load(row: Mapping) -> np.ndarray | images.ImageRejected:
        try:
            return image_sizes.resize(images.read_image(root / row["file_name"]), size(row))
        except images.ImageRejected as rejection:
            return rejection

    def launch(batch: Batch) -> tuple[Batch, Callable[[], Iterator[dict]]]:
        readable = [item for item in batch if isinstance(item[1], np.ndarray)]
        if not readable:
            return batch, lambda: iter(())
        return batch, _launch(backbone, readable, fetch=fetch, with_tokens=with_tokens)

    batches = stream_batches(
        listed,
        load,
        shape=size,
        decoded=lambda row: row["height"] * row["width"],
        batch_size=batch_size,
        workers=workers,
    )

    def with_image(features: dict, image: np.ndarray) -> dict:
        return features | {"image": image} if keep_images else features

    ahead = int(fetch and backbone.device.type == "cuda")
    with progress_bar(total=len(listed), description="features", unit="image") as bar:
        for batch, computed in prefetch(map(launch, batches), ahead):
            for row, image in batch:
                if isinstance(image, images.ImageRejected):
                    print(f"rejected {row['file_name']}: {image}")
                    yield {"image_id": row["image_id"], "status": str(image)}
            readable = [image for _, image in batch if isinstance(image, np.ndarray)]
            yield from map(with_image, computed(), readable)
            bar.update(len(batch))


def _launch(
    backbone: Backbone,
    batch: Sequence[tuple[Mapping, np.ndarray]],
    *,
    fetch: bool,
    with_tokens: bool,
) -> Callable[[], Iterator[dict]]:
    """Start computing features of images of one shape; the returned function yields the rows."""
    pixels = backbone.prepare([image for _, image in batch])
    grid_height, grid_width = (n // backbone.patch_size for n in pixels.shape[2:])
    affinities, *others = backbone.last_block_features(pixels, with_tokens=with_tokens)
    # float16 halves the number of bytes that are copied to the CPU.
    tensors = [affinities, *(tensor.half() for tensor in others)]
    collect = start_copy_to_host(tensors) if fetch else lambda: tensors

    def rows() -> Iterator[dict]:
        for (row, image), affinity, key, *last in zip(batch, *collect(), strict=True):
            features = {
                "image_id": row["image_id"],
                "grid_height": grid_height,
                "grid_width": grid_width,
                "resized_height": image.shape[0],
                "resized_width": image.shape[1],
                "cls_affinity": affinity.ravel(),
                "keys": key.ravel(),
                "status": shards.OK,
            }
            if with_tokens:
                features["tokens"] = last[0].ravel()
            yield features

    return rows
