"""The config of the workflow: merging, validation, and the part of it that each rule depends on."""

import copy
import difflib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings import cluster_names

_APPLIED_SHARD = 500  # most images of a shard of new images, if there are shards enough
# Keys that have another name now: old → new.
MOVED = {
    "mask_rcnn.test_side": "candidates.shorter_side",
    "mask_rcnn.test_proposals": "candidates.proposals",
    "mask_rcnn.candidates_per_image": "candidates.per_image",
    "mask_rcnn.score_floor": "candidates.score_floor",
    "mask_rcnn.nms_threshold": "candidates.nms_threshold",
    "mask_rcnn.mixed_precision": "mask_rcnn.precision",
}

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


def read_yaml(path: Path) -> dict:
    """Parse one YAML file to a mapping.

    Raises:
        InputError: missing, or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values")
    return content


def merge(base: Mapping, *overrides: Mapping) -> dict:
    """Lay mappings over each other, key by key; lists and values are replaced whole."""
    result = copy.deepcopy(dict(base))
    for override in overrides:
        for key, value in override.items():
            if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
                result[key] = merge(result[key], value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def dataset_config(
    name: str,
    config: Mapping,
    folders: Sequence[Path],
    schema: Path,
    *,
    downloadable: Collection[str] = (),
) -> dict:
    """The whole config of one dataset: defaults, then its own file, then the overrides.

    A file with `extends: OTHER` goes over that other dataset's.

    Args:
        name: of the dataset; its file is `name`.yaml.
        config: the workflow's config.
        folders: where the files of datasets lie; earlier folders come first.
        schema: of the merged config.
        downloadable: files that need not be there yet, because the workflow downloads them.

    Raises:
        InputError: an unknown dataset or key, or an unsuitable value; names it and the remedy.
    """
    known = known_datasets(folders)
    if name not in known:
        raise InputError(
            f"unknown dataset {name!r}{_nearest(name, sorted(known))}; known are "
            f"{', '.join(sorted(known))}; describe your own in {folders[0] / name}.yaml"
        )
    merged = merge(config["defaults"], *layers(known[name], known), config["overrides"])
    validate(merged, schema, source=str(known[name]))
    _check_dataset(merged, known[name], downloadable)
    return merged


def known_datasets(folders: Sequence[Path]) -> dict[str, Path]:
    """Name → file of the datasets that there are; earlier folders come first."""
    return {path.stem: path for folder in reversed(folders) for path in folder.glob("*.yaml")}


def layers(path: Path, known: Mapping[str, Path]) -> list[dict]:
    """The file of a dataset, and before it those of the datasets that it extends.

    Args:
        known: of `known_datasets`.

    Raises:
        InputError: it extends an unknown dataset, or itself.
    """
    found: list[dict] = []
    seen = []
    while path not in seen:
        seen.append(path)
        own = read_yaml(path)
        base = own.pop("extends", None)
        found.insert(0, own)
        if base is None:
            return found
        if base not in known:
            raise InputError(f"{path}: extends: unknown dataset {base!r}{_nearest(base, [*known])}")
        path = known[base]
    raise InputError(f"{path}: extends itself, by way of {', '.join(p.stem for p in seen)}")


def _check_dataset(config: Mapping, path: Path, downloadable: Collection[str]) -> None:
    """What a schema cannot say."""
    dataset = config["dataset"]
    if "train" not in dataset["splits"]:
        raise InputError(f"{path}: dataset.splits needs a split `train`, the images to learn from")
    for split, value in dataset["splits"].items():
        if isinstance(value, Mapping) != (dataset["adapter"] == "coco"):
            raise InputError(
                f"{path}: dataset.splits.{split}: the adapter {dataset['adapter']} expects "
                + ("`annotations` and `images`" if dataset["adapter"] == "coco" else "one name")
            )
        for key in ("image_list", "excluded_list") if dataset["adapter"] == "coco" else ():
            if value.get(key) and not datasets.find_image_list(value[key]).is_file():
                raise InputError(
                    f"{path}: dataset.splits.{split}.{key}: there is no file {value[key]}"
                )
    if dataset["ground_truth"] and dataset["adapter"] == "folder":
        raise InputError(f"{path}: a plain folder has no labels; set dataset.ground_truth: false")
    if dataset["ground_truth"] and dataset["adapter"] == "voc" and not dataset["classes"]:
        raise InputError(f"{path}: dataset.classes must name the classes 1, 2, … of the labels")
    for stage in ("features", "embedding", "mask_rcnn", "segmentation"):
        weights = config[stage]["weights"]
        if weights is not None and weights not in downloadable and not Path(weights).is_file():
            raise InputError(f"{path}: {stage}.weights: there is no file {weights}")


def validate(config: Mapping, schema_path: Path, *, source: str) -> None:
    """Check a mapping against a schema.

    Args:
        source: where the mapping came from, for messages.

    Raises:
        InputError: one line that names the key, and the nearest valid one where it is unknown.
    """
    check_moved(config, source=source)
    validator = jsonschema.Draft202012Validator(read_yaml(schema_path))
    for error in sorted(validator.iter_errors(config), key=lambda e: (len(e.path), str(e.path))):
        where = ".".join(map(str, error.absolute_path))
        if error.validator == "additionalProperties":
            valid = sorted(error.schema["properties"])
            key = next(key for key in error.instance if key not in valid)
            name = f"{where}.{key}" if where else key
            raise InputError(
                f"{source}: unknown key {name!r}{_nearest(key, valid)}; valid here: "
                + ", ".join(valid)
            )
        raise InputError(f"{source}: {where or 'the file'}: {_explain(error)}")


def check_moved(config: Mapping, *, source: str) -> None:
    """Check that a config has no key that is named differently now.

    Args:
        config: of a dataset, or parts of it.
        source: where it came from, for messages.

    Raises:
        InputError: names the old key and the new one.
    """
    for old, new in MOVED.items():
        section, key = old.split(".")
        if isinstance(config.get(section), Mapping) and key in config[section]:
            raise InputError(f"{source}: {old} is now {new}; write it there (config/README.md)")


def _explain(error: jsonschema.ValidationError) -> str:
    hint = ""
    if error.validator == "not":
        return f"{error.instance!r} is not allowed: {error.schema['description']}"
    if error.validator == "pattern" and "description" in error.schema:
        hint = f": {error.schema['description']}"
    if error.validator == "type" and isinstance(error.instance, str):
        hint = " (YAML reads 1e-4 as text; write 1.0e-4)"
    return error.message + hint


def _nearest(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def read_names(path: Path, schema: Path) -> dict[int, dict]:
    """Read a file of names.

    Args:
        path: YAML, see the module `curation`.
        schema: of such files.

    Returns:
        seed → {"assignments": digest or None, "clusters": cluster → name}.

    Raises:
        InputError: not such a file.
    """
    content = _with_text_keys(read_yaml(path))
    validate(content, schema, source=str(path))
    return {
        int(seed): {
            "assignments": values.get("assignments"),
            "clusters": {int(number): name for number, name in values["clusters"].items()},
        }
        for seed, values in content["seeds"].items()
    }


def _with_text_keys(content: object) -> object:
    """YAML reads 1 as a number; JSON schemas know only texts as keys."""
    if isinstance(content, Mapping):
        return {str(key): _with_text_keys(value) for key, value in content.items()}
    return content


def curated(config: Mapping, names: Mapping[int, str]) -> dict:
    """A dataset's config as the stages after the clustering see it.

    `clustering.clusters` is the number of pseudo-classes there, and `curation` says what they are
    made of: `classes` (of cluster 1, 2, …; null where nothing is merged or dropped) and `names`.

    Args:
        names: cluster → name, see `curation.curate`.

    Raises:
        InputError: names of clusters that there are not.
    """
    clusters = config["clustering"]["clusters"]
    classes, found = cluster_names.curate(names, clusters)
    return merge(
        config,
        {
            "clustering": {"clusters": len(found)},
            "curation": {
                "classes": None if len(found) == clusters else classes,
                "names": found,
            },
        },
    )


def names_cautions(config: Mapping, names: Mapping[int, Mapping]) -> list[str]:
    """What a file of names may not mean, a line each.

    Args:
        config: of the dataset.
        names: of `read_names`.
    """
    seeds = config["seeds"]
    cautions = [
        f"names of clusters of seed {seed} are not used: `seeds` of the dataset has only "
        f"{', '.join(map(str, seeds))}; correct the number in the file, or add the seed"
        for seed in names
        if seed not in seeds
    ]
    classes = {
        seed: curated(config, names.get(seed, {}).get("clusters", {}))["clustering"]["clusters"]
        for seed in seeds
    }
    if len(set(classes.values())) > 1:
        found = ", ".join(f"{count} in seed {seed}" for seed, count in classes.items())
        cautions.append(
            f"seeds have different numbers of classes after merging ({found}), and their mean "
            "scores mix them; name the clusters of every seed, or set `seeds` to one of them"
        )
    return cautions


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


def changed_settings(old: Mapping, new: Mapping, prefix: str = "") -> Iterator[str]:
    """`key.sub_key: old → new` for every setting in which two trees differ."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from changed_settings(before, after, f"{prefix}{key}.")
        elif key not in old:
            yield f"{prefix}{key}: new, {json.dumps(after, ensure_ascii=False)}"
        elif key not in new:
            yield f"{prefix}{key}: no longer used, was {json.dumps(before, ensure_ascii=False)}"
        elif before != after:
            values = (json.dumps(value, ensure_ascii=False) for value in (before, after))
            yield f"{prefix}{key}: {' → '.join(values)}"


def canonical_json(value: Any) -> str:
    """One text for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


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


def is_downloaded(config: Mapping) -> bool:
    """Whether the workflow downloads this dataset, rather than reading a copy of the user's."""
    name = config["dataset"]["download"]
    return name is not None and config["dataset"]["root"] == f"data/{name}"


def split_shards(config: Mapping, split: str) -> int:
    """The number of shards of a split; one that `shards` does not name has those of `train`."""
    shards = config["shards"]
    return shards.get(split, shards["train"]) if isinstance(shards, Mapping) else shards


def evaluated_split(config: Mapping) -> str:
    """The split that predictions are made and judged on: `val` where there is one."""
    return "val" if "val" in config["dataset"]["splits"] else "train"


def instance_split(config: Mapping) -> str:
    """The split that AP of masks is measured on: `instances`, else the evaluated one."""
    return "instances" if "instances" in config["dataset"]["splits"] else evaluated_split(config)
