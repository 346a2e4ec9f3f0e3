"""The complete config of one dataset, and of the workflow."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.backbones import decided
from workflow_scripts.maskdistill.settings.checks import check_files, validate
from workflow_scripts.maskdistill.settings.layers import (
    known_datasets,
    layers,
    merge,
    read_preset,
)
from workflow_scripts.maskdistill.settings.section import (
    UNIQUE,
    FileName,
    Natural,
    Section,
    contradiction,
    listed,
    nearest,
)
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.clustering import ClusteringSettings
from workflow_scripts.maskdistill.settings.sections.confidence import ConfidenceSettings
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.settings.sections.dataset import DatasetSettings
from workflow_scripts.maskdistill.settings.sections.embedding import EmbeddingSettings
from workflow_scripts.maskdistill.settings.sections.evaluation import EvaluationSettings
from workflow_scripts.maskdistill.settings.sections.exports import ExportSettings
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.images import ImageSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings
from workflow_scripts.maskdistill.settings.sections.predictions import PredictionSettings
from workflow_scripts.maskdistill.settings.sections.report import ReportSettings
from workflow_scripts.maskdistill.settings.sections.runtime import RuntimeSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.settings.sections.shards import Shards


class DatasetConfig(Section):
    """The config of one dataset."""

    dataset: DatasetSettings
    shards: Shards = Field(
        16,
        description="Number of shards, the parts of a split that are processed by separate jobs; "
        "or a number for each split (default: the number for `train`). Do not change it later, or "
        "every stage runs again: the shard of an image is a hash of its name modulo this number.",
    )
    seeds: Annotated[listed(Natural, least=1), *UNIQUE] = Field(
        (0,), description="Seeds of clustering and training; metrics are averaged over them."
    )
    store_features: bool = Field(
        True,
        description="Whether features, by far the largest files, are kept. If false, one job makes "
        "masks directly from images, and the backbone runs again after a change of `masks`. "
        "`snakemake ablations` stores features in any case.",
    )
    images: ImageSettings = ImageSettings()
    features: FeatureSettings = FeatureSettings()
    masks: MaskSettings = MaskSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    clustering: ClusteringSettings = ClusteringSettings()
    mask_rcnn: MaskRCNNSettings = MaskRCNNSettings()
    candidates: CandidateSettings = CandidateSettings()
    confidence: ConfidenceSettings = ConfidenceSettings()
    segmentation: SegmentationSettings = SegmentationSettings()
    predictions: PredictionSettings = PredictionSettings()
    crf: CRFSettings = CRFSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    exports: ExportSettings = ExportSettings()
    report: ReportSettings = ReportSettings()

    def _check_contradictions(self) -> None:
        if self.segmentation.model != "vit_head":
            return
        for key, stored in (
            ("features.tokens", self.features.tokens),
            ("store_features", self.store_features),
        ):
            if not stored:
                raise contradiction(
                    key,
                    "vit_head learns and predicts from the tokens stored with the features; set "
                    "it to true, or segmentation.model to deeplab",
                )
        if self.evaluation.linear_probe.enabled:
            raise contradiction(
                "evaluation.linear_probe.enabled",
                "the linear probe needs the features of DeepLab; set it to false, or "
                "segmentation.model to deeplab",
            )


class WorkflowConfig(Section):
    """The config of the workflow: config/default.yaml with all overrides."""

    datasets: Annotated[listed(FileName, least=1), *UNIQUE] = Field(
        ("demo",),
        description="Names of the datasets to run; each has a file config/datasets/NAME.yaml.",
    )
    apply: str | Annotated[listed(str), *UNIQUE] = Field(
        (),
        description="Folders of new images that `snakemake apply` runs the trained models on. The "
        "results for /some/path/NAME are written to results/DATASET/applied/NAME.",
    )
    overrides: dict[str, Any] = Field(
        {},
        description="Keys that override the config of every dataset, for quick trials; "
        "see config/README.md.",
    )
    runtime: RuntimeSettings = RuntimeSettings()
    # Checked together with the config of each dataset, which overrides it.
    defaults: dict[str, Any] = Field({}, description="Settings of every dataset.")


def dataset_config(
    name: str,
    config: Mapping,
    folders: Sequence[Path],
    *,
    downloadable: Collection[str] = (),
) -> dict:
    """The complete config of one dataset: defaults, preset, own file, and overrides, merged.

    A file with `extends: OTHER` overrides the file of that other dataset. `preset: NAME`, in the
    dataset's file or in the overrides, puts config/presets/NAME.yaml between the defaults and the
    dataset's file. Values that depend on the backbone's family (`auto`, and weights that are not
    named) are filled in. The result does not tell which file a value comes from, so that nothing
    becomes stale if a value moves to another file.

    Args:
        name: name of the dataset; its file is `name`.yaml.
        config: the workflow's config.
        folders: folders of the files of datasets; earlier ones take precedence.
        downloadable: files that may be missing, because the workflow downloads them.

    Raises:
        InputError: an unknown dataset or key, or an invalid value.
    """
    known = known_datasets(folders)
    if name not in known:
        raise InputError(
            f"unknown dataset {name!r}{nearest(name, sorted(known))}; known are "
            f"{', '.join(sorted(known))}; describe your own in {folders[0] / name}.yaml"
        )
    own = merge({}, *layers(known[name], known), config["overrides"])
    source, preset = str(known[name]), own.pop("preset", None)
    merged = merge(config["defaults"], own)
    if preset is not None:
        source += f" (preset {preset})"
        merged = merge(config["defaults"], read_preset(preset, folders, known[name]), own)
    validate(DatasetConfig, merged, source=source)
    check_files(merged, known[name], downloadable)
    return decided(merged, downloadable)
