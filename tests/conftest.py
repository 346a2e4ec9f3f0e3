"""Small data that several test modules use."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests import results_tree
from workflow_scripts.maskdistill.files import provenance, shards
from workflow_scripts.maskdistill.torch_tools import device

# The modules that run first. Most of them start with a run of the whole workflow. With three
# processes, pytest-xdist gives the first and the fourth module to the first process at the start.
# The fourth is short, because test_slurm alone takes two thirds of the time of the whole suite.
FIRST = [
    "slurm/test_slurm.py",
    "rules/test_staleness.py",
    "rules/test_folder.py",
    "rules/test_locks.py",
    "slurm/test_frozen.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules `FIRST` first, so that all workers of pytest-xdist end at about one time."""
    order = {name: place for place, name in enumerate(FIRST)}

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = "/".join(item.path.parts[-2:])
        return order.get(name, len(order)), not name.startswith("rules/")

    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> dict:
    """The settings `features` of a random ViT with patches of 8 pixels, stored on disk."""
    options = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": options,
        "weights": str(path),
        "shorter_side": 32,
        "longer_side": None,
        "precision": "float32",
    }


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """A folder with data/tiny and results/tiny, see `results_tree`; tests change only copies."""
    folder = tmp_path_factory.mktemp("tree")
    results_tree.write(folder)
    return folder


@pytest.fixture
def write_image() -> Callable[..., np.ndarray]:
    """A function that writes a picture of smooth noise and returns its pixels (before JPEG)."""

    def write(path: Path, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return np.asarray(image)

    return write


@pytest.fixture
def write_manifest() -> Callable[[Path, Mapping[int, tuple]], Path]:
    """A function that writes a manifest from image id → (file name, height, width[, status])."""

    def write(path: Path, images: Mapping[int, tuple]) -> Path:
        rows = []
        for image_id, (file_name, height, width, *status) in images.items():
            rows.append(
                {
                    "image_id": image_id,
                    "file_name": file_name,
                    "height": height,
                    "width": width,
                    "shard": 0,
                    "status": status[0] if status else shards.OK,
                }
            )
        shards.write_table(path, "images", rows, provenance.record("images", {}))
        return path

    return write


@pytest.fixture
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU compute in half precision even if it must emulate it, as GPUs do without this."""
    monkeypatch.setattr(device, "multiplies_in", lambda device, precision: True)
