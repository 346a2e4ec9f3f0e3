"""The model card: what a trained model is, from what it comes, and how to use it."""

from collections.abc import Mapping, Sequence

# Runs in the folder of the exported model, next to a picture; shown in the README too.
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

CARD = """# Segmentation model of {dataset}

DeepLab-v3 on a ResNet-{depth}, trained by MaskDistill (arXiv 2206.06363) without labels: what a
class stands for was found by clustering.

| file | what |
| --- | --- |
| `model.onnx` | for ONNX Runtime and others |
| `model.pt2` | `torch.export.load("model.pt2").module()` |
| `classes.json` | names of classes 1, 2, … |

Input `image`: 1 x height x width x 3, uint8, RGB, any sides from {smallest} pixels. Outputs
`labels`: 1 x height x width, int64, 0 is background; `probability` of the label: float32. There is
no CRF in it.

```python
{snippet}```

## Classes

{classes}

## Data

{images} training images of `{dataset}`; no label was read for training.

## Scores

{scores}

## Agreement with the trained model

On noise of the sizes {sizes}:

{agreement}

## Parameters

{parameters}

SHA-256 of the trained model: `{digest}`.

## Licence of the weights

{licence}
"""


def render(
    *,
    dataset: str,
    images: int,
    settings: Mapping,
    training: Mapping,
    metrics: Mapping | None,
    step: str,
    agreement: Mapping[str, Mapping[str, float]],
    sizes: Sequence[tuple[int, int]],
    digest: str,
    versions: Mapping[str, str],
) -> str:
    """The card as Markdown.

    Args:
        images: number of training images.
        settings: of the rule export_model.
        training: settings that the model was trained with.
        metrics: content of metrics.json, if there is ground truth.
        step: its step that is this model without a CRF.
        agreement: file → what `deployment.agreement` found.
        sizes: that it was found on.
        digest: of the trained model's file.
        versions: package → version.
    """
    names, classes = settings["curation"]["names"], settings["curation"]["classes"]
    made_of = classes or range(1, len(names) + 1)
    rows = [
        (
            number,
            name,
            ", ".join(str(c) for c, found in enumerate(made_of, start=1) if found == number),
        )
        for number, name in enumerate(names, start=1)
    ]
    scores = "Not scored: the dataset has no ground truth."
    if metrics is not None:
        found = metrics["steps"][step]
        scores = (
            f"On {metrics['images']} images of `{metrics['split']}`, classes matched with ground "
            f"truth ({found['matching']['method']}): mIoU {_percent(found['miou'])}, pixel "
            f"accuracy {_percent(found['pixel_accuracy'])}."
        )
    licence = settings["exports"]["weights_licence"] or (
        "Not stated (`exports.weights_licence`). The licences of the initial weights and of the "
        "backbone that the masks come from bind as well."
    )
    parameters = {
        **{f"segmentation.{key}": value for key, value in training.items()},
        "features.backbone": settings["features"]["backbone"],
        **versions,
    }
    return CARD.format(
        dataset=dataset,
        depth=training["depth"],
        smallest=training["output_stride"] + 1,
        snippet=SNIPPET,
        classes=_table(("class", "name", "clusters"), rows),
        images=images,
        scores=scores,
        sizes=", ".join(f"{height} x {width}" for height, width in sizes),
        agreement=_table(
            ("file", "same label", "largest difference of probabilities"),
            [
                (f"`{name}`", f"{100 * values['labels']:.3f} %", f"{values['probability']:.1e}")
                for name, values in agreement.items()
            ],
        ),
        parameters=_table(("what", "value"), parameters.items()),
        digest=digest,
        licence=licence,
    )


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.1f} %"


def _table(header: Sequence[str], rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
