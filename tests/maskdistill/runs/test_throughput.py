"""resources/throughput.json is replaced by what a GPU took, all of it or nothing."""

import json

import pytest

from workflow_scripts import fill_throughput
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY

OLD = {
    "about": "assumed",
    "gpu": "NVIDIA V100",
    "rules": {
        "extract_features": {"seconds": 1, "per": "image of 2,160 patches", "basis": "assumed"},
        "train_segmentation": {"seconds": 2, "per": "training image", "basis": "assumed"},
    },
}
# As recorded by `python -m tests.bench --json FILE`, shortened.
EXTRACTION = {
    "module": "cuda_programs",
    "what": "extract_features, 1024 JPEG files, float32",
    "value": 0.0051234,
    "unit": "s/image",
    "reference": 0.0047,
    "against": "the network alone, from memory",
    "at_most": 1.25,
    "rule": "extract_features",
    "per": "image of 2,160 patches",
    "holds": True,
}
TRAINING = EXTRACTION | {
    "module": "cuda_training",
    "what": "train_segmentation, batches of 16 JPEG files, float32",
    "value": 0.03,
    "rule": "train_segmentation",
    "per": "training image",
}
OTHER = EXTRACTION | {"what": "peak memory", "value": 4.5, "unit": "GiB", "rule": "", "per": ""}
MACHINE = {"gpu": "NVIDIA H100", "cores": 16, "torch": "2.11.0", "date": "2026-11-28"}
MEASURED = {"machine": MACHINE, "rows": [EXTRACTION, OTHER, TRAINING]}


@pytest.fixture
def files(tmp_path):
    """A function that writes both files, and the command line."""

    def write(measured):
        (tmp_path / "gpu.json").write_text(json.dumps(measured))
        (tmp_path / "throughput.json").write_text(json.dumps(OLD))
        return [f"--measured={tmp_path}/gpu.json", f"--throughput={tmp_path}/throughput.json"]

    return write


def test_the_whole_file_is_measured(files, tmp_path):
    assert fill_throughput.main(files(MEASURED)) == 0
    found = json.loads((tmp_path / "throughput.json").read_text())
    assert found["gpu"] == "NVIDIA H100, PyTorch 2.11.0, 2026-11-28"
    assert "measured by `make bench-gpu`" in found["about"]
    assert list(found["rules"]) == list(OLD["rules"])
    assert found["rules"]["extract_features"] == {
        "seconds": 0.00512,
        "per": "image of 2,160 patches",
        "basis": "measured: extract_features, 1024 JPEG files, float32",
    }
    # The new file can be replaced again.
    options = [f"--measured={tmp_path}/gpu.json", f"--throughput={tmp_path}/throughput.json"]
    assert fill_throughput.main(options) == 0
    assert json.loads((tmp_path / "throughput.json").read_text()) == found


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (MEASURED | {"machine": MACHINE | {"gpu": None}}, "machine.gpu: "),
        ({"rows": []}, "machine: Field required"),
        ([], "the file: "),
        (MEASURED | {"rows": [TRAINING]}, "not measured: extract_features"),
        (MEASURED | {"rows": [EXTRACTION, EXTRACTION, TRAINING]}, "was measured twice"),
        (MEASURED | {"rows": [EXTRACTION | {"rule": "extract"}]}, "there is no rule extract"),
        (MEASURED | {"rows": [EXTRACTION | {"unit": "ms/image"}]}, "ms/image per image of 2,160"),
        (MEASURED | {"rows": [EXTRACTION | {"per": "image"}]}, "not seconds per image of 2,160"),
        (MEASURED | {"rows": [EXTRACTION | {"value": -1.0}]}, r"-1\.0 seconds"),
        (MEASURED | {"rows": [EXTRACTION | {"value": float("nan")}]}, "nan seconds"),
    ],
)
def test_anything_else_replaces_nothing(files, tmp_path, measured, message):
    with pytest.raises(InputError, match=rf"gpu\.json: .*{message}.*make bench-gpu") as error:
        fill_throughput.main(files(measured))
    assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "throughput.json").read_text()) == OLD


def test_missing_measurements(tmp_path):
    with pytest.raises(InputError, match="no such file; make bench-gpu writes it"):
        fill_throughput.main([f"--measured={tmp_path}/none.json"])
    assert (REPOSITORY / "resources" / "throughput.json").exists()
