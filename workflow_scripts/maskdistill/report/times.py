"""Time and memory of every rule, from Snakemake's benchmark files."""

import csv
import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from workflow_scripts.maskdistill.data.datasets import SPLITS
from workflow_scripts.maskdistill.files import shards

# Rules that write the same files: the provenance of a file says which of them has made it, and its
# benchmark is of the same job.
MASKS = ("make_masks", "extract_masks")
# Path of a rule's benchmark file, without split, round and numbers → rule, in the workflow's order.
# Of several rules it is what is shown where the provenance cannot be read.
RULES = {
    "make_demo_dataset": "make_demo_dataset",
    "images/*": "list_images",
    "features/*": "extract_features",
    "masks/*": " or ".join(MASKS),
    "mask_embeddings/*": "embed_masks",
    "seed/clusters/assignments": "cluster_masks",
    "seed/assignments/*": "assign_masks",
    "seed/initial_label_maps/*": "paint_masks",
    "seed/pseudo_labels": "write_pseudo_labels",
    "seed/mask_rcnn/model": "train_mask_rcnn",
    "seed/candidates/*": "predict_candidates",
    "seed/candidates": "write_results",
    "seed/confident/*": "filter_candidates",
    "seed/segmentation/model": "train_segmentation",
    "seed/predictions/*": "predict_segmentation",
    "seed/predictions_crf/*": "refine_predictions",
    "seed/metrics": "evaluate",
    "seed/instances": "evaluate_instances",
    "ground_truth/*": "write_ground_truth",
    "seed/linear_probe/model": "train_linear_probe",
    "seed/linear_probe/*": "predict_linear_probe",
    "seed/linear_probe_crf/*": "refine_linear_probe",
    "seed/linear_probe": "evaluate_linear_probe",
    "metrics": "summarize",
    "unpacked_label_maps": "unpack_label_maps",
    "unpacked_predictions": "unpack_label_maps",
    "gallery": "write_gallery",
    "seed/contact_sheets": "draw_contact_sheets",
    **dict.fromkeys(
        (
            f"exports/{name}"
            for name in ("coco", "voc", "fiftyone", "label_studio", "huggingface", "yolo")
        ),
        "export_dataset",
    ),
    "exports/model": "export_model",
    "seed/use": "describe_use",
    "label_maps": "write_applied",
}


def timings(benchmarks: Path | None, splits: Collection[str], seeds: Collection[int]) -> list[dict]:
    """Jobs, seconds and MB of every rule, in the workflow's order.

    Ablations are no part of the run, nor are seeds that only they have.

    Args:
        benchmarks: folder of a dataset's benchmark files, benchmarks/DATASET, if there is one; what
            was measured lies in results/DATASET next to it.
        splits: names of its splits.
        seeds: the run's own.
    """
    if benchmarks is None or not benchmarks.is_dir():
        return []
    jobs = defaultdict(list)
    own = {f"seed-{seed}" for seed in seeds}
    results = benchmarks.parent.parent / "results" / benchmarks.name
    for path in sorted(benchmarks.rglob("*.tsv")):
        first = path.relative_to(benchmarks).parts[0]
        if first == "ablations" or (first.startswith("seed-") and first not in own):
            continue
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                rule = rule_of_benchmark(path.relative_to(benchmarks), splits, results)
                jobs[rule].append((_float(row.get("s")), _float(row.get("max_rss"))))
    total = sum(seconds for found in jobs.values() for seconds, _ in found)
    order = {rule: i for i, rule in enumerate(RULES.values())}
    order |= dict.fromkeys(MASKS, order[RULES["masks/*"]])
    return [
        {
            "rule": rule,
            "jobs": len(found),
            "sum": sum(seconds for seconds, _ in found),
            "max": max(seconds for seconds, _ in found),
            "memory": max(memory for _, memory in found),
            "share": sum(seconds for seconds, _ in found) / total if total else 0.0,
        }
        for rule, found in sorted(jobs.items(), key=lambda j: (order.get(j[0], len(order)), j[0]))
    ]


def rule_of_benchmark(path: Path, splits: Collection[str], results: Path) -> str:
    """The rule that a benchmark file belongs to; its path has the stem of the rule's output.

    Args:
        path: relative to the dataset's benchmarks, e.g. `seed-0/val/candidates/0003.tsv`.
        splits: names of the dataset's splits.
        results: folder of the dataset's results.
    """
    parts = []
    # Folders of new images, applied/NAME, are like splits. A stem may be called like a split.
    folders = "|".join(["applied/[^/]+", *SPLITS, *map(re.escape, splits)])
    name = re.sub(rf"(^|/)({folders})/", r"\1", path.with_suffix("").as_posix())
    for part in name.split("/"):
        if part.startswith("seed-"):
            parts.append("seed")
        elif part.isdigit():
            parts.append("*")
        elif not part.startswith("round-"):
            parts.append(part)
    name = "/".join(parts)
    rule = RULES.get(name, name)
    made = results / path.with_suffix(".parquet")
    if name == "masks/*" and made.is_file():
        return shards.read_metadata(made).get("program", rule)
    return rule


def _float(text: str | None) -> float:
    """A cell of a benchmark file; Snakemake writes `-` or `NA` where it could not measure."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
