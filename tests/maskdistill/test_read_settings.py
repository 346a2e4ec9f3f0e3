"""What a rule declares of the config is what its program reads: no more, and no less.

The programs run one after another on a few generated scenes, with settings that note what is looked
at (`tests.settings_recorder`). Where a value is read only under some settings, the program runs
under several.
"""

import concurrent.futures
import importlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml

from tests.settings_recorder import Log, leaves, recording
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.files.label_maps import read_png
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.declared_settings import declared_settings
from workflow_scripts.maskdistill.segmentation import linear_probe
from workflow_scripts.maskdistill.settings import layers
from workflow_scripts.maskdistill.settings.cluster_names import curated
from workflow_scripts.maskdistill.settings.section import Section
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.settings.sections.embedding import EmbeddingSettings
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.settings.whole_config import dataset_config

# The program of a rule has the rule's name, but for these.
PROGRAMS = {
    "dino_seg": "find_baseline_masks",
    "lost": "find_baseline_masks",
    "evaluate_linear_probe": "evaluate",
}
# The report shows all settings but those that it is not given.
DECLARED = {k: v for k, v in declared_settings(REPOSITORY).items() if k != "report"}


def fields(kind: type[Section], names: Iterable[str] = ()) -> dict[str, str]:
    """Field of a section of the settings → the setting that it holds."""
    return {name: f"{kind.section}.{name}" for name in names or kind.model_fields}


# Rule → its typed settings and where their fields come from. What a model file tells has no entry.
TYPED = {
    "extract_features": {FeatureSettings: fields(FeatureSettings)},
    "make_masks": {MaskSettings: fields(MaskSettings)},
    "extract_masks": {
        FeatureSettings: fields(FeatureSettings),
        MaskSettings: fields(MaskSettings),
    },
    "embed_masks": {
        FeatureSettings: fields(FeatureSettings),
        EmbeddingSettings: fields(EmbeddingSettings),
    },
    "train_mask_rcnn": {MaskRCNNSettings: fields(MaskRCNNSettings)},
    "predict_candidates": {CandidateSettings: fields(CandidateSettings)},
    "train_segmentation": {SegmentationSettings: fields(SegmentationSettings)},
    "train_vit_head": {
        FeatureSettings: fields(FeatureSettings),
        SegmentationSettings: fields(SegmentationSettings),
    },
    "refine_predictions": {CRFSettings: fields(CRFSettings)},
    "train_linear_probe": {
        SegmentationSettings: {
            **fields(LinearProbeSettings),
            **fields(SegmentationSettings, linear_probe.VIEWS),
        }
    },
}
# The demo, as small as every stage allows.
DEMO = {
    "dataset": {"generate": {"train": 4, "val": 2, "seed": 1}},
    "shards": 1,
    "features": {"shorter_side": 64, "tokens": True},
    "clustering": {"clusters": 2, "iterations": 5, "redo": 1},
    "mask_rcnn": {"iterations": 1, "batch_size": 2, "train_sides": [64], "optimizer": "sgd"},
    "candidates": {"shorter_side": 64, "proposals": 12, "per_image": 3, "score_floor": 0.0},
    "segmentation": {"epochs": 1, "batch_size": 4, "crop_size": 48, "optimizer": "sgd"},
    "crf": {"iterations": 1},
    "evaluation": {"linear_probe": {"epochs": 1, "batch_size": 4}},
    "report": {"crops": 2},
}
OTHER = {
    # The paper's backbone is the one whose weights are asked for; no embedder but the features'.
    "features": {"backbone": "vit_small_patch16_224.dino"},
    "embedding": {"backbone": None, "input": "box_crop"},
    "mask_rcnn": {
        "fpn": True,
        "fpn_channels": 16,
        "anchor_sizes": [8, 16, 24, 32, 48],
        "optimizer": "adamw",
    },
    "segmentation": {"optimizer": "adamw"},
}
# What is read of `masks` with scores beyond the paper and with refinement.
REFINED = {"scores": "diffusion", "border_prior": 1, "refinement": "crf", "refinement_side": 32}
COCO = {
    "adapter": "coco",
    "classes": [],
    "splits": {
        split: {"annotations": f"{split}.json", "images": "JPEGImages", "image_list": None}
        for split in ("train", "val")
    },
}


class Programs:
    """Runs the programs of rules, and keeps what each declares and what it reads."""

    def __init__(self) -> None:
        self.declared: dict[str, set[str]] = defaultdict(set)
        self.undeclared: dict[str, set[str]] = defaultdict(set)
        self.read: dict[str, set[str]] = defaultdict(set)

    def __call__(self, rule: str, settings: dict, *options: object, **paths: object) -> None:
        """Run a rule's program with its part of the settings."""
        declaration = DECLARED[rule]
        split = options[options.index("--split") + 1] if declaration.of_split else None
        own = declaration.select(settings, split=split)
        program = importlib.import_module(f"workflow_scripts.{PROGRAMS.get(rule, rule)}")
        log = Log(TYPED.get(rule, {}))
        arguments = ["--settings", json.dumps(own), *map(str, options)]
        for name, path in paths.items():
            arguments += [f"--{name.replace('_', '-')}", str(path)]
        with recording(curated(settings, {}), log):
            assert program.main(arguments) == 0
        parts = tuple(f"{'.'.join(path)}." for path in declaration.parts(settings, split))
        self.undeclared[rule] |= {path for path in log.read if not f"{path}.".startswith(parts)}
        self.declared[rule] |= {*leaves(own)}
        self.read[rule] |= log.read


def threads(workers=None, context=None, end=None, *, initializer=None, initargs=()):
    """In the place of processes, in which nobody would see what is read."""
    return concurrent.futures.ThreadPoolExecutor(workers, "", initializer, initargs)


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Programs:
    """All programs, after they have run."""
    run, folder = Programs(), tmp_path_factory.mktemp("programs")
    with (
        pytest.MonkeyPatch.context() as patch,
        mock.patch.object(concurrent.futures, "ProcessPoolExecutor", threads),
    ):
        patch.chdir(REPOSITORY)
        run_all(run, folder)
    return run


def run_all(run: Programs, folder: Path) -> None:
    """The workflow, from the images to the exports."""
    whole = yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text())
    whole["overrides"] = DEMO
    demo = dataset_config("demo", whole, [REPOSITORY / "config" / "datasets"])
    other = layers.merge(demo, OTHER)
    coco = layers.merge(demo, {"dataset": COCO})

    root = folder / "demo"
    at_root = ("--root", root)
    tolerated = ("--max-rejected", 0, 0)
    compute = ("--device", "cpu", "--workers", 0)
    train, val = folder / "train", folder / "val"

    run("make_demo_dataset", demo, output=root / "demo.json")
    for split in (train, val):
        listing = (*at_root, *tolerated, "--split", split.name, "--shard", 0)
        run("list_images", demo, *listing, output=split / "images")
        write_coco(root / f"{split.name}.json", split / "images", root, demo["dataset"]["classes"])
        run("list_images", coco, *listing, output=split / "coco_images")
        images = {"images": split / "images"}
        run("extract_features", demo, *at_root, *compute, **images, output=split / "features")
        run("extract_masks", demo, *at_root, *compute, **images, output=split / "masks")
        found = {**images, "features": split / "features"}
        refined = layers.merge(demo, {"masks": REFINED})
        run("extract_masks", refined, *at_root, *compute, **images, output=split / "masks")
        run("make_masks", refined, *at_root, **found, output=split / "masks")
        run("make_masks", demo, **found, output=split / "masks")
        found = {**images, "masks": split / "masks"}
        run("embed_masks", demo, *at_root, *compute, **found, output=split / "embeddings")
    found = {"images": train / "images", "features": train / "features"}
    for baseline in ("dino_seg", "lost"):
        options = ("--baseline", baseline)
        run(baseline, demo, *options, **found, output=folder / baseline)
    own = layers.merge(demo, {"embedding": OTHER["embedding"]})
    found = {"images": train / "images", "masks": train / "masks"}
    run("embed_masks", own, *at_root, *compute, **found, output=folder / "crops")

    centroids = {"centroids": folder / "centroids"}
    embedded = {"embeddings": train / "embeddings"}
    assignments = {"assignments": train / "assignments"}
    run("cluster_masks", demo, "--seed", 0, **embedded, **assignments, **centroids)
    embedded = {"embeddings": val / "embeddings"}
    run("assign_masks", demo, **embedded, **centroids, output=val / "assignments")
    found = {name: train / name for name in ("images", "masks", "embeddings", "assignments")}
    sheets = folder / "sheets"
    run("draw_contact_sheets", demo, *at_root, "--seed", 0, **found, **centroids, output=sheets)
    found = {name: train / name for name in ("images", "masks", "embeddings")}
    compared = {**found, "output": folder / "suggested"}
    run("compare_cluster_counts", demo, *at_root, "--dataset", "demo", **compared)
    run("map_masks", demo, embeddings=train / "embeddings", output=folder / "map")
    found = {name: val / name for name in ("images", "masks", "assignments")}
    run("paint_masks", demo, **found, output=val / "initial")
    found = {name: train / name for name in ("images", "masks", "assignments")}
    pseudo_labels = folder / "pseudo_labels.json"
    run("write_pseudo_labels", demo, *tolerated, **found, output=pseudo_labels)

    training = (*at_root, *compute, "--seed", 0, "--work-dir", folder / "checkpoints")
    labels = {"pseudo_labels": pseudo_labels, "history": folder / "history.csv"}
    for name, settings in (("fpn", other), ("mask_rcnn", demo)):
        run("train_mask_rcnn", settings, *training, **labels, model=folder / f"{name}.pt")
    predicting = (*at_root, *compute)
    model = {"model": folder / "mask_rcnn.pt"}
    for split in (train, val):
        images = {"images": split / "images"}
        found = split / "candidates"
        run("predict_candidates", demo, *predicting, **images, **model, output=found)
        written = {"confident": split / "confident", "label_maps": split / "label_maps"}
        run("filter_candidates", demo, **images, candidates=found, **written)
    found = {name: val / name for name in ("images", "masks", "assignments")}
    run("score_masks", demo, **found, output=val / "scored")
    candidates = {"images": val / "images", "candidates": val / "candidates"}
    run("write_results", demo, *tolerated, **candidates, output=folder / "candidates.json")
    found = {"images": val / "images", "confident": val / "confident"}
    run("paint_boxes", demo, *at_root, **found, output=val / "boxes")

    labels = {"label_maps": train / "label_maps", "history": folder / "history.csv"}
    for name, settings in (("adamw", other), ("segmentation", demo)):
        run("train_segmentation", settings, *training, **labels, model=folder / f"{name}.pt")
    tokens = {"features": train / "features", "model": folder / "vit_head.pt"}
    run("train_vit_head", demo, *training, **labels, **tokens)
    found = {"images": val / "images", "model": folder / "segmentation.pt"}
    run("predict_segmentation", demo, *predicting, **found, output=val / "predictions")
    run("refine_predictions", demo, *predicting, **found, output=val / "refined")

    found = [f"--{name} val {val / name}".split() for name in ("images", "masks", "candidates")]
    histories = ["--history", "segmentation", folder / "history.csv"]
    assignments = {"assignments": train / "assignments", "output": folder / "health.json"}
    run("check_health", demo, *itertools.chain(*found), *histories, **assignments)

    for settings in (demo, coco):
        run_with_labels(run, settings, root, folder)
    metrics = ("--metrics", folder / "metrics.json", "--output", folder / "summary.json")
    run("summarize", demo, *metrics)
    run("unpack_label_maps", demo, shards=val / "predictions", output=folder / "unpacked")
    found = {name: val / name for name in ("images", "confident", "predictions")}
    written = {name: folder / "applied" / name for name in ("label_maps", "overlays", "objects")}
    rejected = {"rejected": folder / "applied" / "rejected.csv"}
    run("describe_use", demo, output=folder / "use.json")
    run("write_applied", demo, *at_root, **found, **written, **rejected)
    run_export_model(run, demo, folder)
    for settings in (demo, other):
        tabulate(run, settings, folder)


def run_with_labels(run: Programs, settings: dict, root: Path, folder: Path) -> None:
    """What reads labels: once those of VOC, once those of COCO."""
    train, val = folder / "train", folder / "val"
    at_root = ("--root", root)
    of_val = (*at_root, "--split", "val")
    tolerated = ("--max-rejected", 0, 0)
    steps = {"initial_masks": "initial", "mask_rcnn": "label_maps", "segmentation": "predictions"}
    listed = [part for step, name in steps.items() for part in ("--step", step, val / name)]
    tables = {"per_class_csv": folder / "classes.csv", "per_class_parquet": folder / "classes"}
    images, metrics = {"images": val / "images"}, folder / "metrics.json"
    judged = (*of_val, *tolerated)
    run("evaluate", settings, *judged, *listed, **images, **tables, output=metrics)
    found = {name: val / name for name in ("images", "masks", "assignments", "candidates")}
    written = {"metrics": metrics, "output": folder / "instances.json"}
    run("evaluate_instances", settings, *judged, **found, **written)

    of_train = (*at_root, "--split", "train")
    truth = train / "ground_truth"
    run("write_ground_truth", settings, *of_train, images=train / "images", output=truth)
    run(
        "train_linear_probe",
        settings,
        *(*of_train, "--device", "cpu", "--workers", 0, "--seed", 0),
        ground_truth=truth,
        segmentation_model=folder / "segmentation.pt",
        work_dir=folder / "checkpoints",
        model=folder / "probe.pt",
        history=folder / "history.csv",
    )
    found = {"images": val / "images", "model": folder / "probe.pt"}
    compute = ("--device", "cpu", "--workers", 1)
    run("predict_segmentation", settings, *at_root, *compute, **found, output=val / "probe")
    judged = (*judged, "--supervised", "--step", "linear_probe", val / "probe")
    run("evaluate_linear_probe", settings, *judged, **images, **tables, output=folder / "probe")

    stages = ("images", "masks", "assignments", "candidates", "confident")
    shown = [part for stage in stages for part in (f"--{stage}", "val", val / stage)]
    shown += ["--step", "val", "segmentation", val / "predictions", "--dataset", "demo"]
    gallery = {"metrics": metrics, "output": folder / "gallery"}
    run("write_gallery", settings, *at_root, *shown, **gallery)
    found = {name: val / name for name in ("images", "confident", "predictions")}
    options = (*of_val, "--dataset", "demo", "--format", "fiftyone")
    labels = {"pseudo_labels": folder / "pseudo_labels.json"}
    run("export_dataset", settings, *options, **found, **labels, output=folder / "export")


def run_export_model(run: Programs, settings: dict, folder: Path) -> None:
    """The real export, which takes its settings only afterwards, for the card."""
    found = {"model": folder / "segmentation.pt", "images": folder / "train" / "images"}
    options = ("--dataset", "demo", "--metrics", folder / "metrics.json")
    run("export_model", settings, *options, **found, output=folder / "model")


def tabulate(run: Programs, settings: dict, folder: Path) -> None:
    """The table of components."""
    metrics = ("--metrics", "main", folder / "metrics.json")
    metrics += ("--metrics", "all_pixels", folder / "metrics.json")
    written = {"json": folder / "table.json", "csv": folder / "table.csv"}
    run("tabulate_ablation", settings, "--item", "table_1", "--seeds", 0, *metrics, **written)


def write_coco(path: Path, manifest: Path, root: Path, classes: list[str]) -> None:
    """The dataset as a COCO file: one box in every image."""
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    listed, annotations = [], []
    for row in shards.read_rows(manifest):
        size = {"height": row["height"], "width": row["width"]}
        listed.append({"id": row["image_id"], "file_name": Path(row["file_name"]).name, **size})
        labels = read_png(root / "SegmentationClass" / f"{Path(row['file_name']).stem}.png")
        rows, columns = np.nonzero(labels == (label := int(labels[labels < 255].max())))
        x, y = map(int, (columns.min(), rows.min()))
        right, bottom = int(columns.max()) + 1, int(rows.max()) + 1
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": row["image_id"],
                "category_id": label,
                "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
                "bbox": [x, y, right - x, bottom - y],
                "area": (right - x) * (bottom - y),
                "iscrowd": 0,
            }
        )
    content = {"images": listed, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("rule", DECLARED)
def test_a_rule_declares_what_its_program_reads(programs: Programs, rule: str) -> None:
    assert rule in programs.read, f"{rule}: no program of this test runs for it; add it to run_all"
    undeclared = sorted(programs.undeclared[rule])
    assert not undeclared, f"{rule} reads what it does not declare: {undeclared}"
    unread = sorted(programs.declared[rule] - programs.read[rule])
    assert not unread, f"{rule} declares what its program never reads: {unread}"
