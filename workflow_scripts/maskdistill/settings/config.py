"""The part of a dataset's config that each rule depends on."""

import math
from collections.abc import Mapping
from typing import Any

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.cluster_names import curated
from workflow_scripts.maskdistill.settings.splits import (
    evaluated_split,
    instance_split,
    split_shards,
)

_APPLIED_SHARD = 500  # most images of a shard of new images, if there are shards enough

# What a stage needs to know of the dataset to read the labels of a split.
_OF_LABELS = ("dataset.adapter", "dataset.classes", "dataset.ground_truth")
_TRAINING_LABELS = (*_OF_LABELS, "dataset.splits.train.annotations")
_EVALUATED_LABELS = (*_OF_LABELS, "dataset.splits.{evaluated}.annotations")
_INSTANCE_LABELS = (*_OF_LABELS, "dataset.splits.{instances}.annotations")

# What a CRF needs to know.
_CRF = (
    "crf.iterations",
    "crf.gaussian_weight",
    "crf.gaussian_sigma",
    "crf.bilateral_weight",
    "crf.bilateral_sigma_xy",
    "crf.bilateral_sigma_rgb",
    "crf.min_probability",
)

# What each rule's result depends on, in addition to its input files. Nothing else reaches the
# rule, and tests/maskdistill/test_read_settings.py proves that its program reads all of it. A
# split is "{evaluated}" or "{instances}" where the config decides which one it is.
RULE_SETTINGS: dict[str, tuple[str, ...]] = {
    "make_demo_dataset": ("dataset.generate",),
    # Not whether there are labels, nor their names: learning about them makes nothing stale.
    # How many images may be unusable decides no row of any.
    "list_images": (
        "dataset.adapter",
        "dataset.splits",
        "shards",
        "images.max_pixels",
        "images.min_side",
    ),
    "extract_features": ("features",),
    "make_masks": ("masks",),
    "extract_masks": ("features", "masks"),
    # Not the precision of the features: embeddings are computed in float32.
    "embed_masks": (
        "features.backbone",
        "features.backbone_options",
        "features.weights",
        "features.shorter_side",
        "features.longer_side",
        "embedding",
    ),
    # The embeddings of the datasets in support are input files.
    "cluster_masks": (
        "clustering.clusters",
        "clustering.metric",
        "clustering.standardize",
        "clustering.iterations",
        "clustering.redo",
        "clustering.max_points",
    ),
    "assign_masks": ("clustering.metric", "clustering.standardize"),
    "draw_contact_sheets": ("clustering.metric", "clustering.standardize", "report.crops"),
    "paint_masks": ("clustering.clusters", "curation.classes"),
    "write_pseudo_labels": ("clustering.clusters", "curation.classes"),
    "train_mask_rcnn": ("mask_rcnn",),
    # The model file has the architecture.
    "predict_candidates": ("candidates",),
    "filter_candidates": ("confidence.threshold", "clustering.clusters"),
    "write_results": (),
    "train_segmentation": ("segmentation", "clustering.clusters"),
    # The model file has the architecture.
    "predict_segmentation": ("predictions.precision",),
    "refine_predictions": (
        "predictions.precision",
        *_CRF,
    ),
    "describe_use": (
        "candidates",
        "confidence.threshold",
        "predictions.precision",
        "crf.enabled",
        *_CRF,
        "curation.names",
    ),
    "evaluate": (*_EVALUATED_LABELS, "clustering.clusters"),
    "evaluate_instances": (*_INSTANCE_LABELS, "curation.classes"),
    # Labels of what is learned from, and of no other split.
    "write_ground_truth": _TRAINING_LABELS,
    # The model file has the architecture. Frozen features are those of prediction, in its
    # precision; the views are those that the segmentation is trained on.
    "train_linear_probe": (
        *_TRAINING_LABELS,
        "segmentation.crop_size",
        "segmentation.scale",
        "segmentation.rotation",
        "segmentation.flip",
        "predictions.precision",
        "evaluation.linear_probe.epochs",
        "evaluation.linear_probe.batch_size",
        "evaluation.linear_probe.learning_rate",
        "evaluation.linear_probe.learning_rate_milestones",
        "evaluation.linear_probe.learning_rate_decay",
        "evaluation.linear_probe.momentum",
        "evaluation.linear_probe.weight_decay",
    ),
    "evaluate_linear_probe": _EVALUATED_LABELS,
    "summarize": (),
    "unpack_label_maps": ("curation.names",),
    "write_gallery": (
        *_EVALUATED_LABELS,
        "clustering.clusters",
        "curation.classes",
        "curation.names",
    ),
    "export_dataset": (
        *_EVALUATED_LABELS,
        "curation.names",
        "exports.polygons",
        "exports.polygon_tolerance",
    ),
    # The model file has the settings of the segmentation.
    "export_model": (
        "curation.classes",
        "curation.names",
        "features.backbone",
        "exports.weights_licence",
    ),
    "write_applied": ("curation.names",),
    "dino_seg": ("evaluation.ablations.dino_seg_mass",),
    "lost": ("masks.center_keys", "evaluation.ablations.lost_patches"),
    "paint_boxes": ("clustering.clusters",),
    # What decides whether numbers compare with the paper's.
    "tabulate_ablation": (
        "dataset.adapter",
        "features.backbone",
        "features.weights",
        "embedding.backbone",
        "mask_rcnn.weights",
        "segmentation.weights",
        "clustering.clusters",
    ),
}


def rule_settings(rule: str, config: Mapping, names: Mapping[int, str] | None = None) -> dict:
    """The sub-tree of a dataset's config that a rule depends on.

    Args:
        names: of clusters, as people have named them.
    """
    if rule != "cluster_masks":
        config = curated(config, names or {})
    result: dict[str, Any] = {}
    for path in declared_paths(rule, config):
        *parents, last = path.split(".")
        source: Any = config
        for key in parents:
            source = source[key]
        if not isinstance(source, Mapping):
            continue  # a split that is one name has no parts
        target = result
        for key in parents:
            target = target.setdefault(key, {})
        target[last] = source[last]
    return result


def declared_paths(rule: str, config: Mapping) -> list[str]:
    """`RULE_SETTINGS` of a rule, with the splits of a dataset's config filled in."""
    splits = {"evaluated": evaluated_split(config), "instances": instance_split(config)}
    return [path.format(**splits) for path in RULE_SETTINGS[rule]]


def report_settings(config: Mapping, names: Mapping[int, str] | None = None) -> dict:
    """All settings that decide a result of the run itself, for the report, with `curation`."""
    shown = {stage: values for stage, values in config.items() if stage != "exports"}
    names_ = curated(config, names or {})["curation"]
    for stage, left_out in (
        ("evaluation", ("ablations",)),
        ("images", ("max_rejected", "max_rejected_count")),
    ):
        shown[stage] = {k: v for k, v in config[stage].items() if k not in left_out}
    return _without_origin({**shown, "curation": names_})


def _without_origin(settings: Mapping) -> dict:
    """Settings without where the files lie and how they came there, which changes no result."""
    dataset = settings.get("dataset", {})
    origin = ("root", "generate", "download")
    kept = {key: value for key, value in dataset.items() if key not in origin}
    return {**settings, "dataset": kept} if dataset else dict(settings)


def listing_settings(
    config: Mapping, described: Mapping, split: str, images: int | None = None
) -> dict:
    """What the listing of a split depends on: of the splits itself alone.

    Args:
        config: of the dataset.
        described: how the images of the split are found, see `datasets.described`.
        split: its name.
        images: their number, of a folder of new images: small ones have fewer shards.
    """
    shards = split_shards(config, split)
    return {
        **rule_settings("list_images", config),
        "dataset": {
            "adapter": described["adapter"],
            "splits": {split: described["splits"][split]},
        },
        "shards": shards if images is None else min(shards, math.ceil(images / _APPLIED_SHARD)),
    }


def check_support(name: str, configs: Mapping[str, Mapping]) -> None:
    """Check that a dataset's support is embedded in the same way as the dataset itself.

    Raises:
        InputError: names both.
    """
    for support in configs[name]["clustering"]["support"]:
        if rule_settings("embed_masks", configs[name]) != rule_settings(
            "embed_masks", configs[support]
        ):
            raise InputError(
                f"{name}: clustering.support: {support} has other settings of `features` or "
                "`embedding`, so that their embeddings cannot share clusters; make them equal"
            )
