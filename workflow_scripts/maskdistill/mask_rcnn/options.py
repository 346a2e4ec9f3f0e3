"""The settings of Mask R-CNN: `mask_rcnn` for its training, `candidates` for its prediction.

The defaults are those of config/default.yaml.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools.precision import check_precision

_CHOICES = {
    "depth": (10, 18, 50),
    "norm": ("batch", "frozen", "group"),
    "optimizer": ("sgd", "adamw"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The config's `mask_rcnn`: architecture and schedule.

    Sides are in pixels, rates per optimiser step.
    """

    engine: str = "torchvision"  # or detectron2, which has C4 only

    depth: int = 50  # of the ResNet: 10, 18 or 50
    fpn: bool = False  # False: C4, whose last stage is the head of boxes and masks
    fpn_channels: int = 256  # of the pyramid and, in proportion, of its heads
    roi_size: int = 14  # C4 only: features across a region before the last stage halves them
    norm: str = "batch"  # batch (trained), frozen (as in the weights file) or group
    weights: str | None = None  # initial weights of the ResNet; None draws them
    frozen_stages: int = 0  # 0: none, 1: the stem, 2: the stem and the first stage, …
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)

    iterations: int = 24_000
    batch_size: int = 16  # images of one step over all processes
    optimizer: str = "sgd"
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    learning_rate_steps: tuple[int, ...] = (20_000, 22_000)
    learning_rate_decay: float = 0.1  # factor at each of the steps
    warmup_iterations: int = 100
    gradient_clip: float | None = None  # largest norm of the gradient
    precision: str = "float32"  # of the network's products, on every device

    train_sides: tuple[int, ...] = tuple(range(480, 801, 32))  # the shorter side is one of these
    longer_side: int = 1333  # bound on the longer side
    flip: bool = True  # mirror half of the images
    proposals: int = 2000  # of the RPN, an image
    sampled_anchors: int = 256  # in the RPN's loss, an image
    sampled_proposals: int = 512  # in the heads' losses, an image

    def __post_init__(self) -> None:
        _check(self, "mask_rcnn")
        if self.weights is None and (self.frozen_stages or self.norm == "frozen"):
            raise InputError(
                "mask_rcnn: frozen_stages and norm: frozen would freeze random values without "
                "mask_rcnn.weights; name a weights file, or set frozen_stages: 0 and norm: batch "
                "or group"
            )
        if self.fpn and self.engine == "detectron2":
            raise InputError(
                "mask_rcnn.fpn: the engine detectron2 has C4 only; set fpn: false, or "
                "engine: torchvision"
            )
        if self.fpn and len(self.anchor_sizes) != 5:
            raise InputError(
                f"mask_rcnn.anchor_sizes: the FPN has five levels and needs one size for each, "
                f"not {len(self.anchor_sizes)}"
            )


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """The config's `candidates`: what happens when a trained model is applied."""

    shorter_side: int = 800  # in pixels
    longer_side: int = 1333  # bound on the longer side, in pixels
    proposals: int = 1000  # kept per image by the RPN
    per_image: int = 100  # the most candidates per image
    score_floor: float = 0.05  # candidates below are dropped
    nms_threshold: float = 0.5  # IoU of boxes of one cluster above which the weaker is dropped
    precision: str = "float32"  # of the network's products, on every device

    def __post_init__(self) -> None:
        _check(self, "candidates")


def training_settings(values: Mapping) -> TrainingSettings:
    """Read the config's `mask_rcnn`.

    Raises:
        InputError: an unknown key, a value out of its choices, or a contradiction.
    """
    return _read(TrainingSettings, values, "mask_rcnn")


def prediction_settings(values: Mapping) -> PredictionSettings:
    """Read the config's `candidates`.

    Raises:
        InputError: an unknown key or a value out of range.
    """
    return _read(PredictionSettings, values, "candidates")


def _read(kind: type, values: Mapping, section: str):
    if not isinstance(values, Mapping):
        raise InputError(f"{section}: settings are a JSON object, not {values!r}")
    known = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise InputError(f"{section}.{name}: no such setting{hint}")
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )


def _check(settings: TrainingSettings | PredictionSettings, section: str) -> None:
    check_precision(settings.precision, f"{section}.precision")
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in _CHOICES and value not in _CHOICES[field.name]:
            choices = ", ".join(map(str, _CHOICES[field.name]))
            raise InputError(f"{section}.{field.name}: {value!r} is not one of {choices}")
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, int | float) and number < 0 for number in numbers):
            raise InputError(f"{section}.{field.name}: {value} is negative")
    for name in ("train_sides", "anchor_sizes"):
        if getattr(settings, name, True) == ():
            raise InputError(f"{section}.{name}: the list is empty; give at least one size")
