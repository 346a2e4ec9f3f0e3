"""Embed each masked object: the [CLS] token of the image without its background, or of a crop.

The network is the backbone of the features, unless `embedding.backbone` names another one.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import embedding
from workflow_scripts.maskdistill.discovery.mask_embeddings import embedding_rows
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.settings.sections.embedding import EmbeddingSettings
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.torch_tools.device import choose_device


@report_out_of_memory("lower runtime.batch_size or features.shorter_side")
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
    paths = {
        row["image_id"]: options.root / row["file_name"] for row in shards.read_rows(options.images)
    }
    mask_rows = [row for row in shards.read_rows(options.masks) if row["status"] == shards.OK]
    source = features if settings.backbone is None else settings
    metadata = cli.record(
        options,
        "mask_embeddings",
        files=[source.weights],
        weights=network.weights_digest,
    )
    rows = embedding_rows(
        network,
        mask_rows,
        paths,
        settings,
        features,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    size = network.model.num_features
    shards.write_table(options.output, "mask_embeddings", rows, metadata, embedding_size=size)
    return 0


if __name__ == "__main__":
    cli.run(main)
