"""What the rules ask about a run: its settings, images, shards, labels, seeds and folders."""

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.maskdistill.data import datasets, download
from workflow_scripts.maskdistill.data.label_map_files import LabelMapFiles
from workflow_scripts.maskdistill.data.timm_weights import pin_name
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.provenance import file_digest
from workflow_scripts.maskdistill.runs.code_digest import code_digest
from workflow_scripts.maskdistill.runs.declared_settings import Declaration
from workflow_scripts.maskdistill.runs.frozen import FrozenRun
from workflow_scripts.maskdistill.runs.variants import BASELINES, MAIN, has_own, variants
from workflow_scripts.maskdistill.settings import splits
from workflow_scripts.maskdistill.settings.backbones import is_from_timm
from workflow_scripts.maskdistill.settings.changes import canonical_json
from workflow_scripts.maskdistill.settings.layers import merge

# Images per shard of a folder of new images; more if the config has too few shards for this.
_APPLIED_SHARD = 500
_PLACE = re.compile("([^/]+)(?:/ablations/([^/]+))?(?:/(.+))?")


class Parts(NamedTuple):
    """The parts of a path RUN or RUN/SPLIT below results/."""

    dataset: str
    variant: str | None
    split: str | None


def run_name(dataset: str, variant: str) -> str:
    """Name of a run: the dataset, or DATASET/ablations/VARIANT.

    Args:
        variant: its name, or `MAIN`.
    """
    return dataset if variant == MAIN else f"{dataset}/ablations/{variant}"


def parts_of(place: str) -> Parts:
    """The parts of RUN or RUN/SPLIT."""
    return Parts(*_PLACE.fullmatch(place).groups())


class Run:
    """A run of the workflow.

    Args:
        frozen: what its main process has parsed.
        home: folder of the repository.
    """

    def __init__(self, frozen: FrozenRun, home: Path) -> None:
        self._frozen, self._home = frozen, home
        self.configs, self.catalogue, self.applied = (
            frozen.configs,
            frozen.catalogue,
            frozen.applied,
        )
        self.variants = {name: variants(config) for name, config in self.configs.items()}
        # Cached, because Snakemake asks for these once per shard, and shards share the results.
        self.config = functools.cache(self._config)
        self.listing = functools.cache(self._listing)
        self.shard_count = functools.cache(self._shard_count)
        self._by_shard = functools.cache(self._images_by_shard)
        self._settings_text = functools.cache(self._select)

    def _config(self, dataset: str, variant: str | None = None) -> dict:
        """The settings of a dataset, with the changes of a variant if one is named."""
        own = self.configs[dataset]
        return merge(own, self.variants[dataset][variant].changes) if variant else own

    def names(self, dataset: str, seed: int, variant: str | None = None) -> dict[int, str]:
        """Cluster → name; empty for variants that make their own clusters."""
        if variant and has_own(self.variants[dataset][variant], "clusters"):
            return {}
        return self._frozen.names[dataset].get(seed, {}).get("clusters", {})

    def expected_assignments(self, dataset: str, seed: int) -> str | None:
        """Digest of the clusters that the user has named, if the file of names contains it."""
        return self._frozen.names[dataset].get(seed, {}).get("assignments")

    def settings(self, declaration: Declaration, wildcards: Mapping[str, str]) -> str:
        """The settings that a rule declares, as canonical JSON.

        Args:
            wildcards: wildcards of a job: the dataset or the run, and perhaps a seed and a split.
        """
        seed = wildcards.get("seed")
        dataset, variant, _ = parts_of(wildcards.get("run") or wildcards["dataset"])
        return self._settings_text(
            declaration,
            dataset,
            variant,
            None if seed is None else int(seed),
            wildcards["split"] if declaration.of_split else None,
        )

    def _select(
        self,
        declaration: Declaration,
        dataset: str,
        variant: str | None,
        seed: int | None,
        split: str | None,
    ) -> str:
        config = self.config(dataset, variant)
        if split is not None:
            config = self.config_of_split(dataset, split)
        seed = self.first_seed(dataset) if seed is None else seed
        return canonical_json(declaration.select(config, self.names(dataset, seed, variant), split))

    def config_of_split(self, dataset: str, split: str) -> dict:
        """The settings of a dataset with which the images of one split are listed."""
        described, shards = self.described(dataset, split), self.shard_count(dataset, split)
        return {**self.configs[dataset], "dataset": described, "shards": shards}

    def code(self, program: str) -> str:
        """Digest of the logic of a program, as it was when the run was started."""
        name = f"workflow_scripts.{program}"
        return self._frozen.once(f"code of {program}", lambda: code_digest(name, self._home))

    # Weights.

    def timm_weights(self) -> dict[str, str]:
        """Path → backbone, of the weights that come from timm's hub."""
        return {
            config[stage]["weights"]: config[stage]["backbone"]
            for config in self.configs.values()
            for stage in ("features", "embedding")
            if is_from_timm(config[stage], self.catalogue["files"])
        }

    def weights_digest(self, path: str | None) -> str:
        """Digest of a weights file, by which a stage notices that the file was replaced.

        It is empty for files that the workflow downloads itself. Their content always matches the
        recorded checksum, so that no stage becomes stale when they are downloaded or removed.

        Args:
            path: as in the config; None for random weights.
        """

        def digest() -> str:
            if not Path(path).is_file():
                return ""
            if path in self.catalogue["files"]:
                name = self.catalogue["files"][path]["url"]
            else:
                name = pin_name(self.timm_weights().get(path, ""))
            pins = download.pinned({"url": name}, self._home / "resources" / "checksums.json")
            found = file_digest(path)
            return "" if found == pins.get("sha256") else found

        return "" if path is None else self._frozen.once(f"weights {path}", digest)

    # Images and labels.

    def root(self, place: str) -> str:
        """Folder of the images of RUN or RUN/SPLIT."""
        dataset, _, split = parts_of(place)
        return self.described(dataset, split)["root"]

    def max_rejected(self, dataset: str) -> str:
        """The tolerated share and number of unusable images, for the option --max-rejected."""
        images = self.configs[dataset]["images"]
        return f"{images['max_rejected']} {images['max_rejected_count']}"

    def described(self, dataset: str, split: str | None) -> Mapping:
        """How the images of a split are found: adapter, splits and root."""
        return datasets.described(self.configs[dataset]["dataset"], split, self.applied)

    def _listing(self, dataset: str, split: str) -> list[datasets.ListedImage]:
        """All images of a split."""
        described = self.described(dataset, split)
        return datasets.list_images(described, Path(described["root"]), split)

    def check_listings(self) -> None:
        """Find missing lists and labels, empty folders and the like before any job starts.

        Raises:
            InputError: names what is missing.
        """
        for name, config in self.configs.items():
            if self.origin(name) is None:
                for split in config["dataset"]["splits"]:
                    self.listing(name, split)
            for split in self.applied:
                self.shard_count(name, split)
        for name in self._frozen.config["datasets"]:
            if self.origin(name) is None and self.has_ground_truth(name):
                self._check_label_maps(name)

    def _check_label_maps(self, dataset: str) -> None:
        """Check that no label map of PASCAL VOC is missing; COCO has its labels in one file."""
        described = self.configs[dataset]["dataset"]
        if described["adapter"] != "voc":
            return
        read = [(self.evaluated_split(dataset), datasets.VOC_CLASSES, "dataset.ground_truth")]
        if self.has_linear_probe(dataset):
            read.append(("train", datasets.VOC_CLASSES, "evaluation.linear_probe.enabled"))
        if self.has_objects(dataset):
            for folders in (datasets.VOC_CLASSES, (datasets.VOC_OBJECTS,)):
                read.append((self.instance_split(dataset), folders, "evaluation.objects"))
        root = Path(described["root"])
        files = LabelMapFiles(root)
        for split, folders, setting in read:
            images = self.listing(dataset, split)
            if missing := files.missing(images, folders):
                raise InputError(
                    f"{root / missing[0]}: no such label map ({len(missing):,} of {len(images):,} "
                    f"images of the split '{split}' have none); add it, or set {setting}: false in "
                    "the dataset's config"
                )

    def origin(self, dataset: str, split: str | None = None) -> str | None:
        """`generated` or `downloaded` if a rule makes the images of a split, otherwise None."""
        if split in self.applied:
            return None
        if self.configs[dataset]["dataset"]["generate"] is not None:
            return "generated"
        return "downloaded" if splits.is_downloaded(self.configs[dataset]) else None

    def _shard_count(self, dataset: str, split: str) -> int:
        """Number of shards of a split; small folders of new images have few."""
        count = splits.split_shards(self.configs[dataset], split)
        if split not in self.applied:
            return count
        images = self._frozen.once(f"images of {split}", lambda: len(self.listing(dataset, split)))
        return min(count, math.ceil(images / _APPLIED_SHARD))

    def shards(self, dataset: str, split: str) -> list[str]:
        """The numbers of all shards of a split, as in the names of their files."""
        return [f"{number:04d}" for number in range(self.shard_count(dataset, split))]

    def _images_by_shard(self, dataset: str, split: str) -> dict[int, list[datasets.ListedImage]]:
        found: dict[int, list[datasets.ListedImage]] = {}
        count = self.shard_count(dataset, split)
        for image in self.listing(dataset, split):
            found.setdefault(datasets.shard_of(image.file_name, count), []).append(image)
        return found

    def images_of_shard(self, dataset: str, split: str, shard: int) -> list[datasets.ListedImage]:
        """The images of one shard."""
        return self._by_shard(dataset, split).get(shard, [])

    def listing_digest(self, dataset: str, split: str, shard: int) -> str:
        """Digest of a shard's files, which changes if an image is added, removed or replaced.

        For images that a rule makes, Snakemake notices changes through the rule's output; their
        origin then takes the place of the digest.
        """
        if origin := self.origin(dataset, split):
            return origin

        def digest() -> str:
            root = Path(self.described(dataset, split)["root"])
            return datasets.listing_digest(self.images_of_shard(dataset, split, shard), root)

        return self._frozen.once(f"images of {dataset}, {split}, shard {shard}", digest)

    def labels_digest(
        self, dataset: str, split: str, *, objects: bool = False, shard: int | None = None
    ) -> str:
        """Digest of the labels of a split or of one shard, as `listing_digest`.

        Args:
            objects: whether label maps of objects are read, too, and not only those of classes.
        """
        if origin := self.origin(dataset, split):
            return origin
        described = self.configs[dataset]["dataset"]

        def digest() -> str:
            images = (
                self.listing(dataset, split)
                if shard is None
                else self.images_of_shard(dataset, split, shard)
            )
            root = Path(described["root"])
            return datasets.labels_digest(described, root, split, images, objects=objects)

        what = "objects" if objects else "labels"
        return self._frozen.once(f"{what} of {dataset}, {split}, shard {shard}", digest)

    # What the config decides.

    def evaluated_split(self, dataset: str) -> str:
        """The split that is predicted and evaluated."""
        return splits.evaluated_split(self.configs[dataset])

    def instance_split(self, dataset: str) -> str:
        """The split that AP of masks is measured on."""
        return splits.instance_split(self.configs[dataset])

    def seeds(self, dataset: str) -> list[int]:
        """The seeds of a dataset's run."""
        return self.configs[dataset]["seeds"]

    def first_seed(self, dataset: str) -> int:
        """The seed whose pictures are shown and unpacked."""
        return self.seeds(dataset)[0]

    def last_round(self, dataset: str) -> int:
        """The number of the last training round of the segmentation model."""
        return self.configs[dataset]["crf"]["rounds"]

    def rounds(self, dataset: str) -> range:
        """The numbers of the training rounds of the segmentation model."""
        return range(self.last_round(dataset) + 1)

    def has_crf(self, dataset: str) -> bool:
        """Whether a CRF refines the predictions."""
        return self.configs[dataset]["crf"]["enabled"]

    def has_ground_truth(self, dataset: str) -> bool:
        """Whether the dataset has labels for the evaluation."""
        return self.configs[dataset]["dataset"]["ground_truth"]

    def has_objects(self, dataset: str) -> bool:
        """Whether the labels tell single objects apart, so that masks are scored against them."""
        return self.has_ground_truth(dataset) and self.configs[dataset]["evaluation"]["objects"]

    def has_linear_probe(self, dataset: str) -> bool:
        """Whether the linear probe is part of the evaluation."""
        enabled = self.configs[dataset]["evaluation"]["linear_probe"]["enabled"]
        return self.has_ground_truth(dataset) and enabled

    def has_mask_rcnn(self, dataset: str) -> bool:
        """Whether candidates come from a Mask R-CNN; otherwise they are the initial masks."""
        return self.configs[dataset]["mask_rcnn"]["enabled"]

    def has_vit_head(self, dataset: str) -> bool:
        """Whether the segmentation model is a decoder on the tokens stored with the features."""
        return self.configs[dataset]["segmentation"]["model"] == "vit_head"

    def has_candidates(self, run: str) -> bool:
        """Whether a run has a Mask R-CNN, and so candidates, of its own."""
        dataset, variant, _ = parts_of(run)
        if variant is None:
            return True
        own = has_own(self.variants[dataset][variant], "candidates") and variant not in BASELINES
        return own and self.configs[dataset]["evaluation"]["ablations"]["train_mask_rcnn"]

    def folder(self, run: str, stage: str) -> str:
        """Folder of a run with the files of a stage; a variant may use the files of the main run.

        Args:
            stage: one of `variants.STAGES`, or `images`, which no variant changes.
        """
        dataset, variant, _ = parts_of(run)
        own = variant and stage != "images" and has_own(self.variants[dataset][variant], stage)
        return f"results/{run if own else dataset}"

    def results(self, dataset: str, split: str) -> dict[str, str]:
        """Folders with the first seed's results of a split.

        Returns:
            Name → folder of shards: images, confident candidates, their label maps, and the final
            predictions.
        """
        seeded = f"results/{dataset}/seed-{self.first_seed(dataset)}"
        predictions = "predictions_crf" if self.has_crf(dataset) else "predictions"
        return {
            "images": f"results/{dataset}/{split}/images",
            "confident": f"{seeded}/{split}/confident",
            "label_maps": f"{seeded}/{split}/label_maps",
            "predictions": f"{seeded}/round-{self.last_round(dataset)}/{split}/{predictions}",
        }

    def targets(self, dataset: str) -> list[str]:
        """The files that `snakemake all` makes for a dataset."""
        base = f"results/{dataset}"
        split = self.evaluated_split(dataset)
        files = [
            f"{base}/report.html",
            f"{base}/label_maps",
            f"{base}/predictions",
            f"{base}/seed-{self.first_seed(dataset)}/{split}/candidates.json",
            *(f"{base}/seed-{seed}/use.json" for seed in self.seeds(dataset)),
        ]
        return [*files, f"{base}/metrics.json"] if self.has_ground_truth(dataset) else files
