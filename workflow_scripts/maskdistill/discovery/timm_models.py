"""Frozen timm models: build them, prepare their input, and compute embeddings."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workflow_scripts.maskdistill.cpu_kernels.threads import by_image
from workflow_scripts.maskdistill.discovery.published_weights import load_published
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.image_sizes import padded_size
from workflow_scripts.maskdistill.files.provenance import file_digest
from workflow_scripts.maskdistill.settings.backbones import family_of


class Network(nn.Module):
    """A frozen timm model and the preparation of its input.

    Args:
        model: the timm model.
        multiple: number of pixels; the input is padded until its sides are multiples of it.
        weights: file with the model's weights.

    Attributes:
        weights_digest: SHA-256 of the file `weights`, in hexadecimal.
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
        """Normalise images of one size and pad them, on the right and bottom, to `multiple`.

        Args:
            images: H x W x 3, uint8, all of one size.

        Returns:
            B x 3 x H' x W' float32 on the network's device; the padding is zero, which is the
            mean colour.
        """
        batch = torch.from_numpy(np.stack(images))
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # otherwise the copy waits for the GPU's earlier work
        batch = batch.to(self.device, non_blocking=True)
        batch = (batch.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        height, width = batch.shape[2:]
        padded_height, padded_width = padded_size((height, width), self._multiple)
        return F.pad(batch, (0, padded_width - width, 0, padded_height - height))

    def remove_background(self, batch: Tensor, visible: Tensor) -> Tensor:
        """Set all pixels outside the masks to zero, which is the mean colour.

        Args:
            batch: result of `prepare`.
            visible: B x H x W bool, the masks at the images' size before padding.
        """
        height, width = batch.shape[2:]
        padding = (0, width - visible.shape[2], 0, height - visible.shape[1])
        return batch * F.pad(visible.to(batch), padding)[:, None]

    @torch.inference_mode()
    def embed(self, batch: Tensor) -> Tensor:
        """Embeddings, the input of the removed classifier: B x embedding size, float32.

        For a transformer, the embedding is the [CLS] token after the final normalisation; for a
        convolutional network, it is the average of the last feature map.

        Raises:
            InputError: the architecture accepts images of one size only.
        """
        try:
            return by_image(lambda part: (self.model(part),), batch)[0]
        except AssertionError as error:  # raised by timm for sizes that the model was not built for
            height, width = batch.shape[2:]
            raise InputError(
                f"embedding.backbone: {type(self.model).__name__} takes no images of {height} x "
                f"{width} px ({error}); set embedding.input: box_crop (or masked_crop) and "
                "embedding.crop_side to the side it takes, or choose a vision transformer or a "
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
        weights: local checkpoint, see `load_published`. Nothing is ever downloaded.
        setting: section of the config that names the model, for error messages.
        arguments: arguments of `timm.create_model` that the user cannot set.

    Raises:
        InputError: the name is unknown, or no file of weights is set, or it is missing or does not
            fit.
    """
    if weights is None:
        raise InputError(
            f"{setting}.weights is not set; download the weights of {name!r} with python -m "
            "workflow_scripts.fetch_weights (the workflow does so by itself), and name the file"
        )
    model = create_model(name, options or {}, setting, **arguments)
    load_published(model, weights, name=name, setting=setting)
    training = (model.pretrained_cfg or {}).get("tag")
    if "." not in name and training:
        print(
            f"{setting}.backbone {name!r} has no tag that names a training; images are normalised "
            f"as for timm's {name}.{training}"
        )
    return model


def create_model(name: str, options: Mapping, setting: str, **arguments) -> nn.Module:
    """A timm model without its classifier and with random weights.

    Args:
        name: name of a model in timm, or of a training that only `settings.backbones` knows
            (`vit_small_patch16_224.mocov3`).

    Raises:
        InputError: the model cannot be built; the message names the setting to change.
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
    except Exception as error:  # timm and its architectures raise exceptions of many types
        reason = " ".join(str(error).split())
        raise InputError(
            f"{setting}.backbone {name!r} cannot be built: {reason}; choose a model of timm"
        ) from error
