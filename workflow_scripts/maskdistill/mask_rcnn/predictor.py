"""Prediction of candidates with a trained network of any engine."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import image_sizes
from workflow_scripts.maskdistill.files.checkpoints import first_line
from workflow_scripts.maskdistill.mask_rcnn.engines import Candidate
from workflow_scripts.maskdistill.mask_rcnn.pasting import paste
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools.device import autocast

Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


class NetworkPredictor:
    """A trained network on its device; see `engines.Predictor`.

    Args:
        network: network in evaluation mode. It maps a list of images (3 x H x W, uint8, RGB) to a
            list of dicts of "boxes" (n x 4, XYXY), "labels", "scores" and "masks" (n x 1 x M x M).
        resize: function (H x W x 3 uint8 image, (height, width)) → resized image.
    """

    def __init__(
        self, network: nn.Module, settings: CandidateSettings, resize: Resize = image_sizes.resize
    ) -> None:
        self.network, self.settings, self.resize = network, settings, resize

    def predict(self, pictures: Sequence[np.ndarray]) -> list[list[Candidate]]:
        """The candidates of each image (H x W x 3 uint8, all of one size), by falling score."""
        if not pictures:
            return []
        size = pictures[0].shape[:2]
        return self.predict_prepared([self.prepare(picture) for picture in pictures], size)

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that an image of `size` is resized to."""
        return image_sizes.resized_size(
            *size, shorter_side=self.settings.shorter_side, longer_side=self.settings.longer_side
        )

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """Resize an image, H x W x 3 uint8, for the network."""
        return self.resize(picture, self.input_size(picture.shape[:2]))

    @torch.inference_mode()
    def predict_prepared(
        self, prepared: Sequence[np.ndarray], size: tuple[int, int]
    ) -> list[list[Candidate]]:
        """As `predict`, for images of `size` after `prepare`."""
        resized = prepared[0].shape[:2]
        device = next(self.network.parameters()).device
        batch = torch.from_numpy(np.stack(prepared)).to(device).permute(0, 3, 1, 2)
        scale = torch.tensor([size[1] / resized[1], size[0] / resized[0]] * 2)
        with autocast(device, self.settings.precision):
            detections = self.network(list(batch))
        return [
            _candidates({name: value.float().cpu() for name, value in found.items()}, scale, size)
            for found in detections
        ]


def load_network(
    build: Callable[..., nn.Module],
    model: Mapping,
    *,
    settings: CandidateSettings,
    device: torch.device,
    resize: Resize = image_sizes.resize,
) -> NetworkPredictor:
    """Make a predictor from the content of a model file.

    Args:
        build: an engine's `build(training_settings, clusters, prediction=, initial_weights=)`.

    Raises:
        InputError: another version of this program wrote the file.
    """
    try:
        network = build(
            MaskRCNNSettings.read(model["settings"]),
            model["clusters"],
            prediction=settings,
            initial_weights=False,
        )
        network.load_state_dict(model["state_dict"])
    except (InputError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"another version of the workflow wrote this Mask R-CNN ({first_line(error)}); "
            "train it again"
        ) from error
    return NetworkPredictor(network.to(device).eval(), settings, resize)


def _candidates(
    found: dict[str, torch.Tensor], scale: torch.Tensor, size: tuple[int, int]
) -> list[Candidate]:
    """Convert detections on the resized image to candidates on the image; drop empty masks."""
    candidates = []
    # A stable sort, so that the order of equal scores does not depend on the batch.
    order = torch.argsort(found["scores"], descending=True, stable=True).tolist()
    boxes = (found["boxes"] * scale).tolist()
    for index in order:
        left, top, right, bottom = boxes[index]
        mask = paste(found["masks"][index, 0].numpy(), boxes[index], size)
        if mask is not None:
            candidates.append(
                Candidate(
                    cluster=int(found["labels"][index]),
                    score=float(found["scores"][index]),
                    box=(left, top, right - left, bottom - top),
                    mask=mask,
                )
            )
    return candidates
