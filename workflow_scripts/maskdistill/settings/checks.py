"""Checks of the config: keys and values, renamed keys, and the files that it names."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import find_file
from workflow_scripts.maskdistill.settings.section import Section, checked

_Kind = TypeVar("_Kind", bound=Section)

# Renamed keys: old → new.
MOVED = {
    "mask_rcnn.test_side": "candidates.shorter_side",
    "mask_rcnn.test_proposals": "candidates.proposals",
    "mask_rcnn.candidates_per_image": "candidates.per_image",
    "mask_rcnn.score_floor": "candidates.score_floor",
    "mask_rcnn.nms_threshold": "candidates.nms_threshold",
    "mask_rcnn.mixed_precision": "mask_rcnn.precision",
}

# Key of the length of a training → key of the steps or epochs at which its learning rate falls.
_SCHEDULES = {"iterations": "learning_rate_steps", "epochs": "learning_rate_milestones"}


def validate(kind: type[_Kind], config: Mapping, *, source: str) -> _Kind:
    """Check a config and convert it to one of the classes of sections.

    Args:
        kind: class of the config, for instance `DatasetConfig`.
        source: origin of the config, for messages.

    Raises:
        InputError: one line that names the key and, if it is unknown, the most similar valid one.
    """
    check_moved(config, source=source)
    return checked(lambda: kind.model_validate(config), config, source=source)


def check_moved(config: Mapping, *, source: str) -> None:
    """Check that a config has no renamed key.

    Args:
        config: config of a dataset, or parts of it.
        source: origin of the config, for messages.

    Raises:
        InputError: names the old key and the new one.
    """
    for old, new in MOVED.items():
        section, key = old.split(".")
        if isinstance(config.get(section), Mapping) and key in config[section]:
            raise InputError(f"{source}: {old} is now {new}; write it there (config/README.md)")


def untrained(config: Mapping) -> list[str]:
    """The trainings of a dataset that start without weights: mask_rcnn, segmentation.

    Args:
        config: complete config of a dataset, or only `enabled`, `model` and `weights` of its
            sections `mask_rcnn` and `segmentation`.
    """
    trained = {
        "mask_rcnn": config["mask_rcnn"]["enabled"],
        "segmentation": config["segmentation"]["model"] == "deeplab",
    }
    return [stage for stage in trained if trained[stage] and config[stage]["weights"] is None]


def untrained_warning(stage: str) -> str:
    """The warning for a training that starts without weights.

    Args:
        stage: mask_rcnn or segmentation.
    """
    return (
        f"warning: {stage}.weights is null, so it starts from random numbers and needs a far "
        "longer training than from self-supervised weights; `preset: standard` names such weights"
    )


def other_tokens(config: Mapping) -> str | None:
    """The warning if `vit_head` learns classes from another network than they were found with.

    Args:
        config: complete config of a dataset.
    """
    backbone, other = config["features"]["backbone"], config["embedding"]["backbone"]
    if config["segmentation"]["model"] != "vit_head" or other in (None, backbone):
        return None
    return (
        f"warning: clusters come from embedding.backbone, {other}, but vit_head learns them from "
        f"the tokens of features.backbone, {backbone}; if these do not tell classes apart, its "
        "label maps become worse than the initial masks, and `segmentation.model: deeplab` is the "
        "remedy"
    )


def unreached_falls(settings: Section) -> str | None:
    """The warning if a training ends before a step at which its learning rate should fall.

    This is no error, because a short trial with the schedule of a long training is a valid training
    with a constant learning rate.

    Args:
        settings: section of a training, for instance `mask_rcnn`.
    """
    return _unreached_falls(settings.section, dict(settings))


def all_unreached_falls(config: Mapping) -> list[str]:
    """The warnings of `unreached_falls` for all trainings of a dataset.

    Args:
        config: complete config of a dataset.
    """
    probe = config["evaluation"]["linear_probe"]
    trained = {"mask_rcnn": config["mask_rcnn"]} if config["mask_rcnn"]["enabled"] else {}
    trained["segmentation"] = config["segmentation"]
    trained |= {"evaluation.linear_probe": probe} if probe["enabled"] else {}
    found = (_unreached_falls(section, settings) for section, settings in trained.items())
    return [warning for warning in found if warning]


def _unreached_falls(section: str, settings: Mapping) -> str | None:
    length = next(key for key in _SCHEDULES if key in settings)
    falls = _SCHEDULES[length]
    late = [fall for fall in settings[falls] if fall >= settings[length]]
    if not late:
        return None
    return (
        f"warning: {section}.{falls}: the training ends before {', '.join(map(str, late))}, as "
        f"{section}.{length} is {settings[length]}, so the learning rate does not fall there; "
        "lower these values, or remove them"
    )


def check_files(config: Mapping, source: Path, downloadable: Collection[str]) -> None:
    """Check that the files that the config of a dataset names exist.

    Args:
        source: file of the dataset, for messages.
        downloadable: files that may be missing, because the workflow downloads them.

    Raises:
        InputError: names the key and the missing file.
    """
    dataset = config["dataset"]
    for split, value in dataset["splits"].items() if dataset["adapter"] == "coco" else ():
        for key in ("image_list", "excluded_list"):
            if value.get(key) and not find_file(value[key]).is_file():
                raise InputError(
                    f"{source}: dataset.splits.{split}.{key}: there is no file {value[key]}; "
                    "correct the path"
                )
    for stage in ("features", "embedding", "mask_rcnn", "segmentation"):
        weights = config[stage]["weights"]
        if weights is not None and weights not in downloadable and not Path(weights).is_file():
            raise InputError(
                f"{source}: {stage}.weights: there is no file {weights}; correct the path"
            )
