"""Frozen timm models: building them, preparing their input, and computing embeddings."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workflow_scripts.maskdistill.discovery.published_weights import load_published
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.image_sizes import padded_size
from workflow_scripts.maskdistill.files.provenance import file_digest
from workflow_scripts.maskdistill.settings.backbones import family_of


class Network(nn.Module):
    """A frozen timm model and the preparation of its input.

    Args:
        model: the timm model.
        multiple: sides of its input are multiples of this, in pixels.
        weights: file of its weights.

    Attributes:
        weights_digest: SHA-256 of that file, in hexadecimal.
    """

    def __init__(self, model: nn.Module, multiple: int, *, weights: str | os.PathLike) -> None:
        super().__init__()
        self.weights_digest = file_digest(weights)
        self.model = model.eval().requires_grad_(False)
        self._multiple = multiple
        data = timm.data.resolve_data_config(model=model)
        for statistic in ("mean", "std"):
            values = torch.tensor(data[statistic]).view(1, 3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.mean.device

    def prepare(self, images: Sequence[np.ndarray]) -> Tensor:
        """Normalise images of one size and pad them, on the right and bottom, to whole patches.

        Args:
            images: H x W x 3, uint8, all of one size.

        Returns:
            B x 3 x H' x W' float32 on the network's device; the padding is zero, which is the
            mean colour.
        """
        batch = torch.from_numpy(np.stack(images))
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # otherwise the copy waits for all work launched before
        batch = batch.to(self.device, non_blocking=True)
        batch = (batch.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        height, width = batch.shape[2:]
        padded_height, padded_width = padded_size((height, width), self._multiple)
        return F.pad(batch, (0, padded_width - width, 0, padded_height - height))

    def remove_background(self, batch: Tensor, visible: Tensor) -> Tensor:
        """Set everything outside of the masks to zero, the mean colour.

        Args:
            batch: of `prepare`.
            visible: B x H x W bool, of the images' size before padding.
        """
        height, width = batch.shape[2:]
        padding = (0, width - visible.shape[2], 0, height - visible.shape[1])
        return batch * F.pad(visible.to(batch), padding)[:, None]

    @torch.inference_mode()
    def embed(self, batch: Tensor) -> Tensor:
        """The input of the removed classifier, B x embedding size, float32.

        For a transformer this is [CLS] after the final normalisation, for a convolutional network
        the average of the last feature map.

        Raises:
            InputError: the architecture takes images of one size only.
        """
        try:
            return self.model(batch)
        except AssertionError as error:  # raised by timm for sizes that the model was not built for
            height, width = batch.shape[2:]
            raise InputError(
                f"embedding.backbone: {type(self.model).__name__} takes no images of {height} x "
                f"{width} px ({error}); set embedding.input: box_crop (or masked_crop) and "
                "embedding.crop_side to its side, or choose a vision transformer or a "
                "convolutional network"
            ) from error


def build_network(
    name: str,
    *,
    options: Mapping | None = None,
    weights: str | os.PathLike | None = None,
    setting: str = "features",
    **arguments,
) -> nn.Module:
    """Build a timm model without its classifier, with weights from a local file.

    Args:
        name: name of the model, see `create_model`.
        options: further arguments of `timm.create_model` (`patch_size`, `embed_dim`, …).
        weights: local checkpoint, see `load_published`. Nothing is ever asked from a hub.
        setting: section of the config that names the model, for messages.
        arguments: arguments of `timm.create_model` that the user cannot set.

    Raises:
        InputError: unknown name, or weights that are not named, are missing or do not fit.
    """
    if weights is None:
        raise InputError(
            f"{setting}.weights: names no file; fetch that of {name!r} with python -m "
            "workflow_scripts.fetch_weights (the workflow does so by itself)"
        )
    model = create_model(name, options or {}, setting, **arguments)
    load_published(model, weights, name=name, setting=setting)
    training = (model.pretrained_cfg or {}).get("tag")
    if "." not in name and training:
        print(
            f"{setting}.backbone {name!r} names no training; mean and standard deviation are those "
            f"of timm's {name}.{training}"
        )
    return model


def create_model(name: str, options: Mapping, setting: str, **arguments) -> nn.Module:
    """A timm model without its classifier and with random weights.

    Args:
        name: of timm, or of a training that timm does not know but `settings.backbones` does
            (`vit_small_patch16_224.mocov3`).

    Raises:
        InputError: it cannot be built; names the setting to change.
    """
    family = family_of(name)
    if family is not None and not family.in_timm:
        name = name.partition(".")[0]
        imagenet = {
            "mean": timm.data.IMAGENET_DEFAULT_MEAN,
            "std": timm.data.IMAGENET_DEFAULT_STD,
        }
        options = {"pretrained_cfg_overlay": imagenet, **family.options, **options}
    try:
        return timm.create_model(name, num_classes=0, **arguments, **options)
    except Exception as error:  # timm and the architectures raise many types
        reason = " ".join(str(error).split())
        raise InputError(
            f"{setting}.backbone {name!r} cannot be built: {reason}; choose a model of timm"
        ) from error
