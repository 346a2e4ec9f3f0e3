"""Embeddings of the masked objects of a shard, computed in batches."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from workflow_scripts.maskdistill.discovery import embedding
from workflow_scripts.maskdistill.files import image_sizes, images, masks
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.settings.sections.embedding import EmbeddingSettings
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.streaming import stream_batches


def embedding_rows(
    network: embedding.Network,
    mask_rows: Sequence[Mapping],
    paths: Mapping[int, Path],
    settings: EmbeddingSettings,
    features: FeatureSettings,
    *,
    batch_size: int,
    workers: int,
) -> Iterator[dict]:
    """Embed masked objects.

    Args:
        network: see `embedding.build_embedder`.
        mask_rows: rows of `masks` with status ok.
        paths: image_id → path of the image.
        features: section `features`, with the size to which whole images are resized.

    Yields:
        Rows of `mask_embeddings`.
    """
    cropped = settings.input != "masked_image"

    def size(row: Mapping) -> tuple[int, int]:
        if cropped:
            return embedding.crop_size(row["box_height"], row["box_width"], settings.crop_side)
        return image_sizes.resized_size(
            row["height"],
            row["width"],
            shorter_side=features.side(),
            longer_side=features.longer_side,
        )

    def load(row: Mapping) -> tuple[np.ndarray, np.ndarray]:
        image = images.read_listed(paths[row["image_id"]], (row["height"], row["width"]))
        box = (row["x"], row["y"], row["box_width"], row["box_height"])
        if settings.input == "box_crop":
            return embedding.box_crop(image, box, size(row)), np.ones(size(row), bool)
        mask = masks.decode_row(row)
        if settings.input == "masked_crop":
            return embedding.masked_crop(image, mask, box, size(row))
        return embedding.masked_image(image, mask, size(row))

    batches = stream_batches(
        mask_rows,
        load,
        shape=size,
        decoded=lambda row: row["height"] * row["width"],
        batch_size=batch_size,
        workers=workers,
    )
    with progress_bar(total=len(mask_rows), description="embeddings", unit="mask") as bar:
        for batch in batches:
            pictures, visible = zip(*(item for _, item in batch), strict=True)
            pixels = network.prepare(pictures)
            pixels = network.remove_background(pixels, torch.from_numpy(np.stack(visible)))
            vectors = network.embed(pixels).float().cpu().numpy()
            for (row, _), vector in zip(batch, vectors, strict=True):
                key = {name: row[name] for name in ("image_id", "mask_id")}
                yield {**key, "embedding": vector}
            bar.update(len(batch))
