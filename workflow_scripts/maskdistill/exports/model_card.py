"""The model card: description, training data, scores and use of a trained model."""

from collections.abc import Mapping, Sequence

from huggingface_hub import ModelCard, ModelCardData

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.segmentation.deeplab import DeepLab
from workflow_scripts.maskdistill.segmentation.vit_head import ViTHead

TEMPLATE = "workflow_scripts/maskdistill/templates/model_card.md.j2"

# Runs in the folder of the exported model, on a file photo.jpg; docs/commands.md shows it, too.
SNIPPET = """\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

names = ["background", *json.load(open("classes.json"))]
session = onnxruntime.InferenceSession("model.onnx")
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
labels, probability = session.run(None, {"image": np.asarray(image)[None]})
for label, pixels in zip(*np.unique(labels, return_counts=True)):
    print(f"{names[label]}: {pixels / labels.size:.1%}")
"""


def render(
    *,
    dataset: str,
    images: int,
    settings: Mapping,
    model: DeepLab | ViTHead,
    training: Mapping,
    metrics: Mapping | None,
    step: str,
    agreement: Mapping[str, Mapping[str, float]],
    sizes: Sequence[tuple[int, int]],
    digest: str,
    versions: Mapping[str, str],
) -> str:
    """The card as Markdown, with the metadata that the Hugging Face Hub reads.

    Args:
        images: number of training images.
        settings: settings of the rule export_model.
        model: the trained model.
        training: settings of its training.
        metrics: content of metrics.json, if there is ground truth.
        step: step of the metrics with the scores of this model without a CRF.
        agreement: file → result of `deployment.agreement`.
        sizes: (height, width) of the images that were compared.
        digest: SHA-256 of the trained model's file.
        versions: package → version.
    """
    names, classes = settings["curation"]["names"], settings["curation"]["classes"]
    members = {number: [] for number in range(len(names) + 1)}
    for cluster, number in enumerate(classes or range(1, len(names) + 1), start=1):
        members[number].append(cluster)
    licence = settings["exports"]["weights_licence"]
    backbone = settings["features"]["backbone"]
    if isinstance(model, ViTHead):
        architecture = f"A linear decoder on the frozen transformer `{backbone}`"
    else:
        architecture = f"DeepLab-v3 on a ResNet-{training['depth']}"
    data = ModelCardData(
        pipeline_tag="image-segmentation",
        tags=["unsupervised", "maskdistill"],
        license="other" if licence else None,
        license_name=licence,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(REPOSITORY / TEMPLATE),
        dataset=dataset,
        architecture=architecture,
        least_side=model.output_stride + 1,
        sides=getattr(model, "sides", None),
        training=training,
        snippet=SNIPPET,
        names=names,
        members=members,
        images=images,
        metrics=metrics,
        scores=metrics and metrics["steps"][step],
        percent=_percent,
        sizes=sizes,
        agreement=agreement,
        parameters={
            **{f"segmentation.{key}": value for key, value in training.items()},
            "features.backbone": backbone,
            **versions,
        },
        digest=digest,
        licence=licence,
    )
    return f"{card}\n"


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.1f} %"
