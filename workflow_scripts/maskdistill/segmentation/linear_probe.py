"""Linear probe (paper, Section 4.1): train a 1 x 1 convolution with labels on frozen features.

The features are the input of DeepLab's last convolution. The probe's scores tell how good these
features are; the method itself does not use the result.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from workflow_scripts.maskdistill.segmentation import learning
from workflow_scripts.maskdistill.segmentation.deeplab import ARCHITECTURE, DeepLab
from workflow_scripts.maskdistill.segmentation.label_map_prediction import load_predictor
from workflow_scripts.maskdistill.segmentation.labelled_images import LabelSource
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles

GROUND_TRUTH = LabelSource(
    section="evaluation.linear_probe",
    classes="classes",
    beyond="name all classes in dataset.classes, or correct the label",
    unlabelled="add labels of the split train, or set evaluation.linear_probe.enabled: false",
)


# Settings of the section `segmentation` that the probe uses, too: how training crops are drawn.
VIEWS = ("longer_side", "crop_size", "scale", "rotation", "flip")


def training_settings(
    settings: LinearProbeSettings, *, architecture: Mapping, views: Mapping, precision: str
) -> SegmentationSettings:
    """The settings of a training of the linear classifier; its loss uses all pixels.

    Args:
        settings: section `evaluation.linear_probe`, with the schedule of the training.
        architecture: the segmentation model's values of the settings in `ARCHITECTURE`.
        views: values of the settings in `VIEWS`.
        precision: precision of the network's matrix products.
    """
    features_of_prediction = {"dropout": 0.0, "precision": precision, "weights": None}
    return SegmentationSettings.read_part(
        {**architecture, **features_of_prediction, **views, **_schedule(settings)}
        | {"optimizer": "sgd", "hardest_fraction": 1.0, "label_smoothing": 0.0}
    )


def _schedule(settings: LinearProbeSettings) -> dict:
    return {name: value for name, value in settings.plain().items() if name != "enabled"}


def with_linear_classifier(model: DeepLab, classes: int) -> DeepLab:
    """Freeze a model, and replace its last convolution by an untrained one.

    Dropout is switched off, so that the features are the same in training and in prediction; frozen
    batch normalisation keeps its statistics.

    Args:
        classes: K; the new 1 x 1 convolution has K + 1 outputs.
    """
    model.requires_grad_(False)
    classifier = nn.Conv2d(model.head[-1].in_channels, classes + 1, 1)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    model.head[-1] = classifier
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def train(
    label_maps: Sequence[str | os.PathLike],
    root: str | os.PathLike,
    *,
    classes: int,
    segmentation_model: str | os.PathLike,
    settings: LinearProbeSettings,
    views: Mapping,
    precision: str,
    seed: int,
    files: TrainingFiles,
    device: torch.device,
    workers: int = 0,
) -> None:
    """Train a linear classifier; continues from the last checkpoint if there is one.

    The result is a DeepLab's model file with classes in place of clusters, which
    `label_map_prediction.load_predictor` reads.

    Args:
        label_maps: shards of ground-truth label maps with the labels 0..`classes` and ignore.
        segmentation_model: model file of `learning.train`; it also contains the architecture.
        views: values of the settings in `VIEWS`.
        precision: precision of the network's matrix products: `predictions.precision`, because
            the trained classifier is used for predictions.

    The other arguments and the errors are those of `learning.train`.
    """
    predictor = load_predictor(segmentation_model, torch.device("cpu"), precision=precision)
    architecture = {name: predictor.settings[name] for name in ARCHITECTURE}
    learning.train_model(
        lambda: with_linear_classifier(predictor.model, classes),
        label_maps,
        root,
        clusters=classes,
        settings=training_settings(
            settings, architecture=architecture, views=views, precision=precision
        ),
        seed=seed,
        source=GROUND_TRUTH,
        fingerprint={
            "stage": "train_linear_probe",
            "settings": {**_schedule(settings), **views, "precision": precision},
            "model": Path(segmentation_model),
        },
        precision=precision,
        files=files,
        device=device,
        workers=workers,
    )
