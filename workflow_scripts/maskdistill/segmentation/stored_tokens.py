"""Tokens of the transformer that were stored with the features (`features.tokens`)."""

import math
import os
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.segmentation.vit_head import Tokens

_SIZES = ["resized_height", "resized_width", "grid_height", "grid_width"]


class StoredTokens(NamedTuple):
    """The tokens of one image after the last block."""

    image_id: int
    size: tuple[int, int]  # (height, width) of the image as the transformer saw it, unpadded
    image: np.ndarray  # d, float16: the token [CLS]
    patches: np.ndarray  # rows x columns x d, float16

    def batch(self, device: torch.device) -> Tokens:
        """The tokens as a batch of one image, float32."""
        image, patches = (
            torch.from_numpy(part)[None].to(device).float() for part in (self.image, self.patches)
        )
        return Tokens(image, patches.permute(0, 3, 1, 2))


def read_grids(paths: Iterable[str | os.PathLike]) -> dict[int, tuple[int, int]]:
    """image_id → (rows, columns) of its patches, for all images in shards of features."""
    columns = ["image_id", "grid_height", "grid_width", "status"]
    return {
        row["image_id"]: (row["grid_height"], row["grid_width"])
        for path in paths
        for row in shards.read_rows(path, columns)
        if row["status"] == shards.OK
    }


def read_tokens(
    path: str | os.PathLike, wanted: Container[int], *, width: int
) -> Iterator[StoredTokens]:
    """Stream the tokens of images from a shard of features, a few at a time.

    Args:
        wanted: ids of the images.
        width: d, the number of components of a token.

    Raises:
        InputError: the shard has no tokens of one of the images, or they have another width.
    """
    columns = ["image_id", *_SIZES, "tokens", "status"]
    for row in shards.read_rows(path, columns, batch_size=16):
        if row["image_id"] not in wanted:
            continue
        if row["status"] != shards.OK:
            raise InputError(
                f"{path}: the image with id {row['image_id']} could not be read when its features "
                f"were extracted ({row['status']}); run list_images again, which leaves it out"
            )
        if row["tokens"] is None:
            raise InputError(
                f"{path}: these features have no tokens; set features.tokens: true and extract "
                "them again"
            )
        size = (row["resized_height"], row["resized_width"])
        grid = (row["grid_height"], row["grid_width"])
        tokens = row["tokens"].reshape(1 + math.prod(grid), -1)
        if tokens.shape[1] != width:
            raise InputError(
                f"{path}: tokens have {tokens.shape[1]} components, but those of the model's "
                f"transformer have {width}; give the features of the same backbone"
            )
        yield StoredTokens(row["image_id"], size, tokens[0], tokens[1:].reshape(*grid, width))
