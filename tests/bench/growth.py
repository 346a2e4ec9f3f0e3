"""Peak memory of the stages for growing numbers of images, and bytes on disk per image."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
import yaml
from safetensors.torch import save_file

from tests.bench import Row
from tests.rules.conftest import REPOSITORY
from workflow_scripts.maskdistill.demo import scenes
from workflow_scripts.maskdistill.files.masks import encode
from workflow_scripts.maskdistill.files.shards import read_rows, shard_writer
from workflow_scripts.maskdistill.mask_rcnn import engines
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings

COUNTS = (40, 160, 640)
FLAT = 1.1
# Stages whose memory must grow, because they need data of all images; see docs/scale.md.
MERGES = ("cluster_masks", "write_pseudo_labels")
CLUSTERS = 6
DEFAULTS = yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text())["defaults"]
# Small untrained networks: the benchmark measures the memory of programs, not of networks.
BACKBONE = "vit_tiny_patch16_224"
BACKBONE_OPTIONS = {
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 2,
    "num_heads": 3,
    "img_size": 128,
}
SEGMENTATION = {
    "depth": 10,
    "output_stride": 16,
    "frozen_stages": 0,
    "atrous_rates": [1, 2],
    "head_width": 16,
    "dropout": 0,
}
MASK_RCNN = {
    "engine": "torchvision",
    "depth": 10,
    "weights": None,
    "frozen_stages": 0,
    "norm": "batch",
    "roi_size": 4,
    "anchor_sizes": [24, 48, 80],
}
CANDIDATES = {"shorter_side": 64, "proposals": 8, "per_image": 4, "score_floor": 0.0}


class Stage(NamedTuple):
    """A program, its settings and options, and the file whose size is measured, if any."""

    name: str
    settings: Mapping
    options: tuple[str | Path, ...]
    output: Path | None = None


def rows() -> Iterator[Row]:
    """Peak memory of every stage at 1, 4 and 16 times the images, compared with the fewest."""
    first: dict[str, float] = {}
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            _write_inputs(folder, count)
            for stage in _stages(folder):
                # The smaller of two measurements, because random effects only increase memory.
                peak = min(_peak(stage) for _ in range(2))
                if count == COUNTS[0]:
                    first[stage.name] = peak
                else:
                    yield Row(
                        what=f"peak memory of {stage.name}, {count} images",
                        value=peak,
                        unit="MB",
                        reference=first[stage.name],
                        against=f"{COUNTS[0]} images",
                        at_most=None if stage.name in MERGES else FLAT,
                    )
                if count == COUNTS[-1] and stage.output:
                    size = stage.output.stat().st_size / count
                    yield Row(what=f"disk of {stage.name}", value=size, unit="bytes/image")
                if count == COUNTS[-1] and stage.name == "extract_features":
                    yield Row(
                        what="disk of extract_features, compared with its numbers",
                        value=size,
                        unit="bytes/image",
                        reference=_numbers(stage.output) / count,
                        against="float16 keys, float32 affinities",
                        at_most=1.05,
                    )
                if stage.name == "list_images":
                    _write_candidates(folder / "candidates.parquet", stage.output)


def _write_inputs(folder: Path, count: int) -> None:
    """Write images with labels, and untrained models."""
    scenes.write_voc_tree(folder / "voc", train=count, val=1, seed=0)
    backbone = timm.create_model(BACKBONE, num_classes=0, **BACKBONE_OPTIONS)
    save_file(backbone.state_dict(), folder / "backbone.safetensors")
    deeplab = build_deeplab(CLUSTERS, **SEGMENTATION)
    _save(folder / "segmentation.pt", deeplab, settings=SEGMENTATION)
    chosen = MaskRCNNSettings.read(MASK_RCNN)
    detector = engines.engine(chosen.engine).build_mask_rcnn(chosen, CLUSTERS)
    _save(
        folder / "mask_rcnn.pt",
        detector,
        settings=dict(chosen),
        engine=chosen.engine,
    )


def _save(path: Path, model: torch.nn.Module, **content: object) -> None:
    torch.save({"state_dict": model.state_dict(), "clusters": CLUSTERS, **content}, path)


def _stages(folder: Path) -> Iterator[Stage]:
    """The stages in the order of the workflow; each reads the files of earlier ones."""
    names = ("images", "features", "masks", "embeddings", "assignments", "initial", "candidates")
    manifest, features, masks, embeddings, assignments, initial, candidates = (
        folder / f"{name}.parquet" for name in names
    )
    predicted, refined, confident = (
        folder / f"{name}.parquet" for name in ("predicted", "refined", "confident")
    )
    metrics, found = folder / "metrics.json", folder / "found.parquet"
    classes = [f"class_{number}" for number in range(CLUSTERS)]
    dataset = {"adapter": "voc", "splits": {"train": "train"}, "classes": classes}
    dataset["ground_truth"] = True
    backbone = DEFAULTS["features"] | {
        "backbone": BACKBONE,
        "backbone_options": BACKBONE_OPTIONS,
        "weights": str(folder / "backbone.safetensors"),
        "shorter_side": 128,
    }
    clustering = DEFAULTS["clustering"] | {"clusters": CLUSTERS, "redo": 1}
    curation = {"classes": None, "names": classes}
    root = ("--root", folder / "voc", "--workers", "2")
    images = ("--images", manifest)
    train = ("--split", "train")
    tolerated = ("--max-rejected", "0", "0")

    limits = {key: DEFAULTS["images"][key] for key in ("max_pixels", "min_side")}
    listing = {"dataset": dataset, "shards": 1, "images": limits}
    options = (*root, *train, *tolerated, "--shard", "0", "--output", manifest)
    yield Stage("list_images", listing, options, manifest)
    options = (*root, *images, "--output", features)
    yield Stage("extract_features", {"features": backbone}, options, features)
    options = (*images, "--features", features, "--output", masks)
    yield Stage("make_masks", {"masks": DEFAULTS["masks"]}, options, masks)
    options = (*root, *images, "--masks", masks, "--output", embeddings)
    settings = {"features": backbone, "embedding": DEFAULTS["embedding"]}
    yield Stage("embed_masks", settings, options, embeddings)
    options = ("--embeddings", embeddings, "--seed", "0", "--assignments", assignments)
    options = (*options, "--centroids", folder / "centroids.parquet")
    yield Stage("cluster_masks", {"clustering": clustering}, options, assignments)
    settings = {"clustering": clustering, "curation": curation}
    options = (*images, "--masks", masks, "--assignments", assignments, "--output", initial)
    yield Stage("paint_masks", settings, options, initial)
    options = (*images, *tolerated, "--masks", masks, "--assignments", assignments)
    options = (*options, "--output", folder / "pseudo_labels.json")
    yield Stage("write_pseudo_labels", settings, options, folder / "pseudo_labels.json")

    options = (*root, *images, "--model", folder / "mask_rcnn.pt", "--output", found)
    yield Stage("predict_candidates", {"candidates": CANDIDATES}, options)
    options = (*images, *tolerated, "--candidates", candidates)
    options = (*options, "--output", folder / "candidates.json")
    yield Stage("write_results", {}, options, folder / "candidates.json")
    settings = {"confidence": DEFAULTS["confidence"], "clustering": clustering}
    options = (*images, "--candidates", candidates, "--confident", confident)
    options = (*options, "--label-maps", folder / "label_maps.parquet")
    yield Stage("filter_candidates", settings, options, folder / "label_maps.parquet")

    model = (*root, *images, "--model", folder / "segmentation.pt", "--output")
    settings = {"predictions": DEFAULTS["predictions"]}
    yield Stage("predict_segmentation", settings, (*model, predicted))
    settings = settings | {"crf": {"iterations": 1}}
    yield Stage("refine_predictions", settings, (*model, refined))
    options = ("--shards", predicted, "--output", folder / "unpacked")
    yield Stage("unpack_label_maps", {"curation": curation}, options)

    scored = {"dataset": dataset, "clustering": clustering, "curation": curation}
    steps = (*("--step", "initial_masks", initial), *("--step", "mask_rcnn", predicted))
    options = (*root, *train, *images, *tolerated, *steps, "--output", metrics)
    options = (*options, "--per-class-csv", folder / "csv", "--per-class-parquet", folder / "pq")
    yield Stage("evaluate", scored, options)
    options = (*root, *train, *images, *tolerated, "--masks", masks)
    options = (*options, "--assignments", assignments)
    options = (*options, "--candidates", candidates, "--metrics", metrics)
    options = (*options, "--output", folder / "instances.json")
    yield Stage("evaluate_instances", scored, options)


def _write_candidates(path: Path, manifest: Path) -> None:
    """Write as many candidates per image as Mask R-CNN may find; few have a high score."""
    count = DEFAULTS["candidates"]["per_image"]
    with shard_writer(path, "candidates", {}) as writer:
        for image in read_rows(manifest):
            mask = np.zeros((image["height"], image["width"]), bool)
            mask[10:60, 20:80] = True
            encoded = encode(mask)._asdict()
            for number in range(count):
                row = {"image_id": image["image_id"], "candidate_id": number, "cluster": 1}
                writer.write({**row, "score": 0.95 - number / count, **encoded})


def _numbers(features: Path) -> int:
    """Number of bytes of all keys and affinities without compression."""
    return sum(row["keys"].nbytes + row["cls_affinity"].nbytes for row in read_rows(features))


def _peak(stage: Stage) -> float:
    """Peak resident memory of a program, in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    program = [sys.executable, "-m", f"workflow_scripts.{stage.name}"]
    options = ["--settings", json.dumps(stage.settings), *map(str, stage.options)]
    command = [sys.executable, "-c", code, *program, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])
