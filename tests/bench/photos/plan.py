"""The plan of the benchmark: photographs, transformers with configs, and rows of the table."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.bench.photos import token_cut
from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.variants import MAIN, variants
from workflow_scripts.maskdistill.settings.downloads import read_catalogue
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml
from workflow_scripts.maskdistill.settings.whole_config import dataset_config

SPLITS = ("train", "val")
_PER_SHARD = 300  # photographs per job: at most these are computed again after an interruption
_SETTING = re.compile(r"@(?=[a-z_]+(?:\.[a-z_]+)+=)")
_CONFIG = REPOSITORY / "config"


class Transformer(NamedTuple):
    """A vision transformer whose masks are measured."""

    backbone: str  # name in timm
    weights: Path
    settings: dict  # settings of the config that override the preset


def parse_transformer(text: str) -> Transformer:
    """Parse BACKBONE=WEIGHTS, followed by any number of @SECTION.KEY=VALUE, values in YAML.

    Raises:
        InputError: the text has another form, or the file does not exist.
    """
    head, *settings = _SETTING.split(text)
    backbone, _, weights = head.partition("=")
    if not backbone or not weights:
        raise InputError(
            f"--backbone {text!r}: must be BACKBONE=WEIGHTS, a timm name and a file, for example "
            "vit_small_patch16_224.dino=dino.pth@features.shorter_side=384"
        )
    if not Path(weights).is_file():
        raise InputError(f"{weights}: no such file of weights; correct --backbone")
    changes: dict = {}
    for setting in settings:
        path, _, value = setting.partition("=")
        try:
            change = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--backbone: {setting!r}: {value!r} is not valid YAML") from None
        for key in reversed(path.split(".")):
            change = {key: change}
        changes = merge(changes, change)
    return Transformer(backbone, Path(weights).absolute(), changes)


class Photographs(NamedTuple):
    """The photographs that are measured."""

    root: Path
    lists: dict[str, str]  # split → list of its images, as `dataset.splits` takes it
    counts: dict[str, int]  # split → number of images


def choose_photographs(root: Path, work: Path, count: int | None) -> Photographs:
    """Choose photographs of both splits, and write lists of them if not all are chosen.

    Args:
        root: folder in VOC's layout.
        work: folder for the lists.
        count: number of photographs per split, chosen by a hash of their names; None for all.

    Raises:
        InputError: a list or a label map of val is missing.
    """
    root, lists, counts = root.absolute(), {}, {}
    for split in SPLITS:
        dataset = {"adapter": "voc", "splits": {split: split}}
        listed = datasets.list_images(dataset, root, split)
        lists[split] = split
        if count is not None and count < len(listed):
            # An image's id is a hash of its name, so that this is a random choice.
            listed = sorted(listed, key=lambda image: image.image_id)[:count]
            path = work.absolute() / "lists" / f"{split}-{count}.txt"
            names = [Path(image.file_name).stem for image in listed]
            write_text(path, "".join(f"{name}\n" for name in sorted(names)))
            lists[split] = str(path)
        counts[split] = len(listed)
        if split == "val":
            _check_labels(root, listed)
    return Photographs(root, lists, counts)


def _check_labels(root: Path, listed: Sequence[datasets.ListedImage]) -> None:
    lacking = [
        image.file_name
        for image in listed
        if not any(
            (root / datasets.voc_label_map(folder, image.file_name)).is_file()
            for folder in datasets.VOC_CLASSES
        )
    ]
    if lacking:
        raise InputError(
            f"{root}: {len(lacking)} of {len(listed)} photographs of val have no label map in "
            f"{datasets.VOC_CLASSES[0]}, for instance {lacking[0]}; add them, because masks are "
            "compared with them"
        )


class Row(NamedTuple):
    """A row of the table: the masks of one method."""

    title: str
    variant: str  # variant of the run that makes the masks, see `runs.variants`; or `MAIN`
    key: str  # its name in the option --rows


class Plan(NamedTuple):
    """A transformer's run of the workflow."""

    dataset: str  # name of the run
    transformer: Transformer
    config: dict  # the complete config of the run
    rows: list[Row]

    def shards(self, split: str) -> list[str]:
        """Names of the shards of a split: their numbers as in file names."""
        return [f"{number:04d}" for number in range(self.config["shards"][split])]


def write_plan(
    transformer: Transformer,
    photographs: Photographs,
    work: Path,
    *,
    preset: str,
    classes: Sequence[str],
    clusters: int,
    seeds: Sequence[int],
    taken: Collection[str],
) -> Plan:
    """Write the config of a transformer's run to `work`.

    The main run has the preset's settings, overridden by the transformer's own. The masks of other
    methods are variants of this run, so that all use the same features, embeddings and clustering.

    Args:
        classes: names of the classes 1, 2, … of the label maps.
        taken: names of other runs, which this run must not have.

    Raises:
        InputError: the config is not valid.
    """
    name = transformer.backbone
    chosen = min(photographs.counts.values())
    if any(Path(listed).is_absolute() for listed in photographs.lists.values()):
        name += f"-{chosen}"
    if name in taken:  # the same transformer with other settings
        name += f"-{len(taken) + 1}"
    paper, overlaid = _preset("paper")["masks"], transformer.settings.get("masks", {})
    compared = {
        "paper": _masks(paper),
        "centred": _masks(paper, {"center_keys": True}),
        "standard": _masks(_preset("standard")["masks"]),
        token_cut.NAME: {},
    }
    own = ", the transformer's own settings" if overlaid else ""
    of_run = _masks(_preset(preset).get("masks", {}), overlaid)
    rows = [
        Row("Eq. 1 and 2, keys as they are (the paper)", "masks-paper", "paper"),
        Row("Eq. 1 and 2, keys centred", "masks-centred", "centred"),
        Row("preset standard", "masks-standard", "standard"),
        Row(f"preset {preset}{own}", MAIN, "preset"),
        Row("LOST", "lost", "lost"),
        Row("DINO-seg", "dino_seg", "dino_seg"),
        Row("TokenCut", f"masks-{token_cut.NAME}", token_cut.NAME),
    ]
    if compared["standard"] == of_run:
        del compared["standard"], rows[3]
        title = "preset standard" if preset == "standard" else f"presets standard and {preset}"
        rows[2] = Row(title, MAIN, "standard")
    content = merge(
        {
            "preset": preset,
            "dataset": {
                "root": str(photographs.root),
                "adapter": "voc",
                "splits": dict(photographs.lists),
                "ground_truth": True,
                "classes": list(classes),
            },
            "shards": {
                split: math.ceil(count / _PER_SHARD) for split, count in photographs.counts.items()
            },
            "seeds": list(seeds),
            "features": {
                "backbone": transformer.backbone,
                "weights": str(transformer.weights),
                "shorter_side": "auto",  # the usual side for this backbone
            },
            "clustering": {"clusters": clusters},
            "evaluation": {"objects": False, "ablations": {"masks": compared}},
        },
        transformer.settings,
    )
    path = work / "config" / "datasets" / f"{name}.yaml"
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    workflow = {**read_yaml(_CONFIG / "default.yaml"), "overrides": {}}
    folders = [path.parent, _CONFIG / "datasets"]
    catalogue = read_catalogue(REPOSITORY / "resources" / "downloads.yaml")
    config = dataset_config(name, workflow, folders, downloadable=catalogue["files"])
    known = {MAIN, *variants(config)}
    assert all(row.variant in known for row in rows)
    return Plan(name, transformer, config, rows)


def _preset(name: str) -> dict:
    return read_yaml(_CONFIG / "presets" / f"{name}.yaml")


def _masks(*changes: Mapping) -> dict:
    """A complete section `masks`: the defaults with the given changes."""
    return merge(read_yaml(_CONFIG / "default.yaml")["defaults"]["masks"], *changes)
