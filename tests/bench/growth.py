"""Peak memory of the sharded stages, and bytes on disk an image, as the number of images grows."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import yaml
from safetensors.torch import save_file

from tests.bench import Row
from tests.rules.conftest import REPOSITORY
from workflow_scripts.maskdistill import scenes
from workflow_scripts.maskdistill.masks import encode
from workflow_scripts.maskdistill.shards import read_rows, shard_writer

COUNTS = (40, 160, 640)
FLAT = 1.1
OPTIONS = {"patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 3, "img_size": 128}
NAME = "vit_tiny_patch16_224"
DEFAULTS = yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text())["defaults"]


def rows() -> Iterator[Row]:
    """Every stage at 1, 4 and 16 times the images, against its peak at the fewest."""
    first: dict[str, float] = {}
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as directory:
            for stage, peak, size in _stages(Path(directory), count):
                if count == COUNTS[0]:
                    first[stage] = peak
                else:
                    yield Row(
                        what=f"peak memory of {stage}, {count} images",
                        value=peak,
                        unit="MB",
                        reference=first[stage],
                        against=f"{COUNTS[0]} images",
                        at_most=FLAT,
                    )
                if count == COUNTS[-1]:
                    yield Row(what=f"disk of {stage}", value=size / count, unit="bytes/image")
                if count == COUNTS[-1] and stage == "extract_features":
                    yield Row(
                        what="the same, over its numbers",
                        value=size / count,
                        unit="bytes/image",
                        reference=_numbers(Path(directory) / "features.parquet") / count,
                        against="float16 keys, float32 affinities",
                        at_most=1.05,
                    )


def _stages(folder: Path, count: int) -> Iterator[tuple[str, float, int]]:
    """(stage, peak MB, bytes written), one program after the other."""
    weights = folder / "weights.safetensors"
    save_file(timm.create_model(NAME, num_classes=0, **OPTIONS).state_dict(), weights)
    features = DEFAULTS["features"] | {
        "backbone": NAME,
        "backbone_options": OPTIONS,
        "weights": str(weights),
        "shorter_side": 128,
    }
    root = folder / "photos"
    scenes.write_voc_tree(root, train=count, val=1, seed=0)
    manifest, values, masks = (folder / f"{n}.parquet" for n in ("images", "features", "masks"))
    dataset = {"adapter": "folder", "splits": {"train": "JPEGImages"}, "classes": []}
    limits = {key: DEFAULTS["images"][key] for key in ("max_pixels", "min_side")}
    listed = {"dataset": dataset, "shards": 1, "images": limits}
    embedding = DEFAULTS["embedding"]
    candidates, clusters = folder / "candidates.parquet", {"clusters": 20}
    runtime = ("--root", str(root), "--workers", "2")
    listing = (*runtime, "--split", "train", "--shard", "0", "--max-rejected", "0", "0")
    for stage, settings, output, options in (
        ("list_images", listed, manifest, listing),
        ("extract_features", {"features": features}, values, (*runtime, "--images", str(manifest))),
        (
            "make_masks",
            {"masks": DEFAULTS["masks"]},
            masks,
            ("--images", str(manifest), "--features", str(values)),
        ),
        (
            "embed_masks",
            {"features": features, "embedding": embedding},
            folder / "embeddings.parquet",
            (*runtime, "--images", str(manifest), "--masks", str(masks)),
        ),
        (
            "filter_candidates",
            {"confidence": DEFAULTS["confidence"], "clustering": clusters},
            folder / "confident.parquet",
            ("--images", str(manifest), "--candidates", str(candidates)),
        ),
    ):
        written = ["--output", str(output)]
        if stage == "filter_candidates":
            _write_candidates(candidates, manifest)
            written = ["--confident", str(output), "--label-maps", str(folder / "maps.parquet")]
        arguments = ["--settings", json.dumps(settings), *options, *written]
        yield stage, _peak(f"workflow_scripts.{stage}", *arguments), output.stat().st_size


def _write_candidates(path: Path, manifest: Path) -> None:
    """As many as Mask R-CNN may find in every image, few of them confident."""
    count = DEFAULTS["mask_rcnn"]["candidates_per_image"]
    with shard_writer(path, "candidates", {}) as writer:
        for image in read_rows(manifest):
            mask = np.zeros((image["height"], image["width"]), bool)
            mask[10:60, 20:80] = True
            encoded = encode(mask)._asdict()
            for number in range(count):
                row = {"image_id": image["image_id"], "candidate_id": number, "cluster": 1}
                writer.write({**row, "score": 0.95 - number / count, **encoded})


def _numbers(features: Path) -> int:
    """Bytes of keys and affinities, uncompressed."""
    return sum(row["keys"].nbytes + row["cls_affinity"].nbytes for row in read_rows(features))


def _peak(*arguments: str) -> float:
    """Peak resident memory of a program, in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])
