"""Settings that suit each family of vision transformers, chosen by the backbone's name.

Mean, standard deviation and patch size are not repeated here, because timm's own description of a
published checkpoint has them.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

AUTO = "auto"  # value of a setting that is replaced by the value of the backbone's family
WEIGHTS_FOLDER = "data/weights"
_ENDINGS = (".safetensors", ".pth", ".pth.tar", ".pt", ".bin")


@dataclass(frozen=True, kw_only=True)
class BackboneFamily:
    """Transformers that were trained by one method, and the settings that suit them."""

    title: str
    names: str  # regular expression of their names in timm, or of names that only we use
    # Whether the image's mean key must be subtracted from the keys before Eq. 2. None if this was
    # not measured; `masks.center_keys: auto`, which decides for each image, is then a safe choice.
    center_keys: bool | None
    shorter_side: int  # pixels that images are resized to
    # Whether timm has the weights. If not, images are normalised by ImageNet's mean and deviation.
    in_timm: bool = True
    # Arguments of timm.create_model that the weights need and that timm would set differently.
    options: Mapping[str, Any] = field(default_factory=dict)
    basis: str  # where these values come from


# A backbone belongs to the first family whose `names` match its name.
FAMILIES = (
    BackboneFamily(
        title="DINOv2 with registers",
        names=r"vit_\w+_reg4_dinov2(\..*)?",
        center_keys=True,
        shorter_side=448,
        basis="as DINOv2 without registers; not measured",
    ),
    BackboneFamily(
        title="DINOv2",
        names=r"vit_\w+_dinov2(\..*)?",
        center_keys=True,
        shorter_side=448,
        basis="measured with a ViT-S/14 on VOC 2012: without centring, masks are whole images",
    ),
    BackboneFamily(
        title="DINOv3",
        names=r"vit_\w+_dinov3(_qkvb)?(\..*)?",
        center_keys=None,
        shorter_side=512,
        basis="32 x 32 patches, as DINOv2 has at 448 pixels; not measured",
    ),
    BackboneFamily(
        title="DINO",
        names=r"vit_\w+\.dino",
        center_keys=False,
        shorter_side=640,
        basis="the paper",
    ),
    BackboneFamily(
        title="iBOT",
        names=r"vit_(small|base|large)_patch16_224\.ibot",
        center_keys=None,
        shorter_side=640,
        in_timm=False,
        basis="trained on the same images and crops as DINO; not measured",
    ),
    BackboneFamily(
        title="MoCo-v3, ViT-S",
        names=r"vit_small_patch16_224\.mocov3",
        center_keys=None,
        shorter_side=640,
        in_timm=False,
        options={"num_heads": 12},  # timm's ViT-S has 6, and weights do not show it
        basis="size as for DINO, not measured; heads as in its authors' code",
    ),
    BackboneFamily(
        title="MoCo-v3",
        names=r"vit_base_patch16_224\.mocov3",
        center_keys=None,
        shorter_side=640,
        in_timm=False,
        basis="size as for DINO; not measured",
    ),
    BackboneFamily(
        title="MAE",
        names=r"vit_\w+\.mae",
        center_keys=None,
        shorter_side=448,
        basis="28 x 28 patches, twice as many per side as in training; not measured",
    ),
    BackboneFamily(
        title="CLIP",
        names=r"(vit|eva02)_\w*clip\w*(\..*)?",
        center_keys=None,
        shorter_side=448,
        basis="28 x 28 patches of 16 pixels, twice as many per side as in training; not measured",
    ),
    BackboneFamily(
        title="trained with labels",
        names=r"(vit|deit|deit3|eva|eva02|beit|beitv2)_\w+(\..*)?",
        center_keys=True,
        shorter_side=384,
        basis="measured with a ViT-Ti/16 on VOC 2012",
    ),
)
# For networks that belong to no family.
DEFAULT_SHORTER_SIDE = 640


def family_of(backbone: str) -> BackboneFamily | None:
    """The family of a backbone, by its name; None for other networks.

    The values of the family are used only for settings that are `auto` in the config.

    Args:
        backbone: `features.backbone`: architecture and, behind a dot, the training.
    """
    fitting = (family for family in FAMILIES if re.fullmatch(family.names, backbone))
    return next(fitting, None)


def weights_file(backbone: str, downloadable: Collection[str] = ()) -> str:
    """Path of the weights of a backbone, for a config that names none.

    Args:
        downloadable: paths in the catalogue of downloads. Weights that it does not list are fetched
            from timm's hub.
    """
    for path in downloadable:
        name = PurePosixPath(path).name
        if name.removeprefix(backbone) in _ENDINGS and name.startswith(backbone):
            return path
    return f"{WEIGHTS_FOLDER}/{backbone}.safetensors"


def is_from_timm(section: Mapping, downloadable: Collection[str] = ()) -> bool:
    """Whether the weights of a section, `features` or `embedding`, are fetched from timm's hub."""
    backbone, path = section["backbone"], section["weights"]
    return backbone is not None and path == weights_file(backbone) and path not in downloadable


def decided(config: Mapping, downloadable: Collection[str] = ()) -> dict:
    """The config of a dataset, completed with the values of the families of its backbones.

    Args:
        config: complete config of a dataset.
        downloadable: see `weights_file`.

    Returns:
        A copy without `auto` in `features.shorter_side`, and with the files of all weights of
        transformers.
    """
    features, embedding = dict(config["features"]), dict(config["embedding"])
    family = family_of(features["backbone"])
    if features["shorter_side"] == AUTO:
        features["shorter_side"] = family.shorter_side if family else DEFAULT_SHORTER_SIDE
    for section in (features, embedding):
        if section["weights"] is None and section["backbone"] is not None:
            section["weights"] = weights_file(section["backbone"], downloadable)
    return {**config, "features": features, "embedding": embedding}
