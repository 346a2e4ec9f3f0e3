"""The network that embeds masked objects, and its input: a masked image or a crop."""

import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.discovery.timm_models import Network, build_network
from workflow_scripts.maskdistill.discovery.vit import Backbone, is_vision_transformer
from workflow_scripts.maskdistill.files import image_sizes, masks
from workflow_scripts.maskdistill.settings.sections.embedding import EmbeddingSettings
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings


def build_embedder(embedding: EmbeddingSettings, features: FeatureSettings) -> Network:
    """The network that embeds masked objects.

    Args:
        embedding: `backbone` may name a transformer or a convolutional network of timm.
        features: gives the backbone if `embedding` names none.

    Raises:
        InputError: the name is unknown, or weights are missing or do not fit.
    """
    setting, source = ("features", features)
    if embedding.backbone is not None:
        setting, source = ("embedding", embedding)
    name, options = source.backbone, source.backbone_options
    chosen = {"options": options, "weights": source.weights, "setting": setting}
    if source is features or is_vision_transformer(name, options=options, setting=setting):
        return Backbone(name, **chosen)
    return Network(build_network(name, **chosen), multiple=1, weights=source.weights)


def masked_image(
    image: np.ndarray, mask: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The image and its mask, resized for the backbone.

    The background is removed after normalisation, see `remove_background`.

    Args:
        image: H x W x 3, uint8.
        mask: H x W, bool.
        size: (height, width) to which image and mask are resized.

    Returns:
        uint8 of size x 3, and bool of size.
    """
    return image_sizes.resize(image, size), masks.resize_mask(mask, size)


def crop_size(height: float, width: float, side: int | None) -> tuple[int, int]:
    """(height, width) in pixels of a box's crop: a square of `side`; the box's size for None."""
    if side is not None:
        return side, side
    return max(1, round(height)), max(1, round(width))


def box_crop(
    image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """The image inside a box, background included.

    Args:
        image: H x W x 3, uint8.
        box: XYWH in pixels.
        size: (height, width) of the result in pixels, see `crop_size`.

    Returns:
        uint8 of size x 3.
    """
    x, y, width, height = box
    return np.asarray(
        Image.fromarray(image).resize(
            size[::-1], Image.Resampling.BICUBIC, box=(x, y, x + width, y + height)
        )
    )


def masked_crop(
    image: np.ndarray,
    mask: np.ndarray,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """The image and its mask inside the mask's box, resized for the backbone.

    The background is removed after normalisation, see `remove_background`.

    Args:
        image: H x W x 3, uint8.
        mask: H x W, bool.
        box: XYWH in whole pixels.
        size: (height, width) of the result in pixels, see `crop_size`.

    Returns:
        uint8 of size x 3, and bool of size.
    """
    x, y, width, height = map(int, box)
    inside = mask[y : y + height, x : x + width]
    return box_crop(image, box, size), masks.resize_mask(inside, size)
