"""One setting is changed in a finished run: exactly the stages that depend on it become stale."""

import copy
import shutil
from pathlib import Path

import pytest

from tests.rules.conftest import Workflow, copy_repository
from workflow_scripts.maskdistill.config import merge

pytestmark = pytest.mark.workflow

PROBE = {"train_linear_probe", "predict_linear_probe", "refine_linear_probe"}
PROBE |= {"evaluate_linear_probe", "summarize", "report"}
REPORTING = {"evaluate", "evaluate_instances", "summarize", "report"}
# A refined prediction of the training images is what the next round learns from.
REFINEMENT = {"refine_predictions", "train_segmentation", "predict_segmentation"}
REFINEMENT |= {"unpack_label_maps"} | REPORTING | PROBE
SEGMENTATION = REFINEMENT
CONFIDENCE = {"filter_candidates"} | SEGMENTATION
MASK_RCNN = {"train_mask_rcnn", "predict_candidates", "write_results"} | CONFIDENCE
CLUSTERS = {"cluster_masks", "assign_masks", "paint_masks", "write_pseudo_labels"} | MASK_RCNN
EMBEDDING = {"embed_masks"} | CLUSTERS
MASKS = {"make_masks"} | EMBEDDING
FEATURES = {"extract_features"} | MASKS
IMAGES = {"list_images", "write_ground_truth"} | FEATURES


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": {"min_side": 17}}, IMAGES),
        ({"features": {"shorter_side": 72}}, FEATURES),
        ({"masks": {"top_k": 0.3}}, MASKS),
        ({"masks": {"source_component": True}}, MASKS),
        ({"embedding": {"input": "box_crop"}}, EMBEDDING),
        ({"clustering": {"clusters": 5}}, CLUSTERS),
        ({"clustering": {"iterations": 11}}, CLUSTERS),
        ({"clustering": {"standardize": True}}, CLUSTERS),
        ({"mask_rcnn": {"learning_rate": 0.01}}, MASK_RCNN),
        ({"confidence": {"threshold": 0.8}}, CONFIDENCE),
        ({"segmentation": {"hardest_fraction": 0.4}}, SEGMENTATION),
        ({"crf": {"iterations": 7}}, REFINEMENT),
        ({"evaluation": {"linear_probe": {"learning_rate": 0.2}}}, PROBE),
        ({"report": {"examples": 3}}, {"report"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_changed_setting(finished: Workflow, change: dict, expected: set) -> None:
    assert set(finished.stale("all", overrides=merge(finished.overrides, change))) == expected


@pytest.mark.parametrize(
    "runtime",
    [{"batch_size": 3}, {"threads": 1}, {"checkpoint_every": 7}, {"device": "auto", "gpus": 2}],
)
def test_runtime_makes_nothing_stale(finished: Workflow, runtime: dict) -> None:
    assert finished.stale("all", runtime=runtime) == {}


def test_the_order_of_keys_makes_nothing_stale(finished: Workflow) -> None:
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(copy.deepcopy(finished.overrides).items())
    }
    assert finished.stale("all", overrides=turned) == {}


def test_a_copy_elsewhere_is_not_stale(finished: Workflow, tmp_path: Path) -> None:
    # Times are those of copying: nothing may depend on them.
    copied = shutil.copytree(finished.directory, tmp_path / "copy", copy_function=shutil.copyfile)
    assert Workflow(copied, finished.datasets, finished.overrides).stale("all") == {}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository, to edit."""
    return copy_repository(tmp_path)


def edit(checkout: Path, module: str, old: str, new: str) -> None:
    path = checkout / "workflow_scripts" / "maskdistill" / module
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("module", "old", "new", "expected"),
    [
        ("crf.py", "import ", "# A comment.\nimport ", set()),
        ("affinity.py", '"""Object masks', '"""All object masks', set()),
        ("affinity.py", "> 0\n", "> 0.0\n", MASKS),
        ("confidence.py", "ranked[:1]", "ranked[:2]", CONFIDENCE),
        ("crf.py", "def ", "ANSWER = 42\n\n\ndef ", REFINEMENT),
        ("clustering.py", "squared / 2", "squared * 0.5", CLUSTERS),
    ],
)  # fmt: skip
def test_changed_code(
    finished: Workflow, checkout: Path, module: str, old: str, new: str, expected: set
) -> None:
    edit(checkout, module, old, new)
    stale = finished.stale("all", repository=checkout)
    assert set(stale) == expected
