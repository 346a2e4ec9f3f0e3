"""Embed masked objects: [CLS] of the image without its background, or of a crop.

Another network than that of the features may be named for it.
"""

from pathlib import Path

import numpy as np
import torch

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import embedding
from workflow_scripts.maskdistill.files import images, masks, shards
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.settings.sections.embedding import EmbeddingSettings
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.streaming import stream_batches
from workflow_scripts.maskdistill.torch_tools.device import choose_device


def main(argv: list[str] | None = None) -> int:
    """Write the embeddings of one shard's masks; exit code 0."""
    parser = cli.Parser("embed_masks", __doc__)
    cli.add_root(parser)
    cli.add_runtime(parser)
    parser.add_input("--images", required=True, help="the shard's manifest")
    parser.add_input("--masks", required=True, help="the shard's masks")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)
    settings = EmbeddingSettings.read(options.settings["embedding"])
    features = FeatureSettings.read_part(options.settings["features"])

    network = embedding.build_embedder(settings, features).to(choose_device(options.device))
    file_names = {row["image_id"]: row["file_name"] for row in shards.read_rows(options.images)}
    rows = [row for row in shards.read_rows(options.masks) if row["status"] == shards.OK]
    crop = settings.input == "box_crop"

    def size(row: dict) -> tuple[int, int]:
        if crop:
            return embedding.crop_size(row["box_height"], row["box_width"], settings.crop_side)
        return images.resized_size(
            row["height"],
            row["width"],
            shorter_side=features.shorter_side,
            longer_side=features.longer_side,
        )

    def load(row: dict) -> tuple[np.ndarray, np.ndarray]:
        path = options.root / file_names[row["image_id"]]
        image = images.read_listed(path, (row["height"], row["width"]))
        if crop:
            box = (row["x"], row["y"], row["box_width"], row["box_height"])
            return embedding.box_crop(image, box, size(row)), np.ones(size(row), bool)
        mask = masks.decode(row["rle_counts"], row["height"], row["width"])
        return embedding.masked_image(image, mask, size(row))

    batches = stream_batches(
        rows, load, shape=size, batch_size=options.batch_size, workers=options.workers
    )
    source = features if settings.backbone is None else settings
    metadata = cli.record(
        options,
        "mask_embeddings",
        files=[source.weights],
        weights=network.weights_digest,
    )
    with (
        shards.shard_writer(
            options.output,
            "mask_embeddings",
            metadata,
            embedding_size=network.model.num_features,
        ) as writer,
        progress_bar(total=len(rows), description="embeddings", unit="mask") as bar,
    ):
        for batch in batches:
            pictures, visible = zip(*(item for _, item in batch), strict=True)
            pixels = network.prepare(pictures)
            pixels = network.remove_background(pixels, torch.from_numpy(np.stack(visible)))
            vectors = network.embed(pixels).float().cpu().numpy()
            for (row, _), vector in zip(batch, vectors, strict=True):
                key = {name: row[name] for name in ("image_id", "mask_id")}
                writer.write({**key, "embedding": vector})
            bar.update(len(batch))
    return 0


if __name__ == "__main__":
    cli.run(main)
