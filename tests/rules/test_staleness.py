"""After a change in a finished run, exactly the stages that depend on the change are stale."""

import copy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.rules.conftest import REPOSITORY, Workflow, copy_repository, following
from tests.rules.test_leaves import DEFAULTS, reached
from workflow_scripts.maskdistill.runs.code_digest import import_closure
from workflow_scripts.maskdistill.runs.declared_settings import declared_settings
from workflow_scripts.maskdistill.settings.layers import merge

pytestmark = pytest.mark.workflow

PROBE = {"train_linear_probe", "predict_linear_probe", "refine_linear_probe"}
PROBE |= {"evaluate_linear_probe", "check_health", "summarize", "report"}
REPORTING = {"evaluate", "evaluate_instances", "summarize", "report"}
# The next round of training learns from the refined predictions of the training images.
REFINEMENT = {"refine_predictions", "train_segmentation", "predict_segmentation"}
REFINEMENT |= {"unpack_label_maps"} | REPORTING | PROBE
SEGMENTATION = REFINEMENT
SCORES = REPORTING | {"evaluate_linear_probe"}
USE = {"describe_use"}
CONFIDENCE = {"filter_candidates"} | SEGMENTATION
CANDIDATES = {"predict_candidates", "write_results"} | CONFIDENCE
MASK_RCNN = {"train_mask_rcnn"} | CANDIDATES
CLUSTERS = {"cluster_masks", "assign_masks", "paint_masks", "write_pseudo_labels"} | MASK_RCNN
EMBEDDING = {"embed_masks"} | CLUSTERS
MASKS = {"make_masks"} | EMBEDDING
FEATURES = {"extract_features"} | MASKS
IMAGES = {"list_images", "write_ground_truth"} | FEATURES
# A new split `instances` needs its own files and their scores; no model is trained again.
INSTANCES = {"list_images", "extract_features", "make_masks", "embed_masks", "assign_masks"}
INSTANCES |= {"predict_candidates"} | REPORTING - {"evaluate"}
# All files of the split `val`; no model is trained again.
OF_VAL = INSTANCES | {"paint_masks", "filter_candidates", "write_results", "unpack_label_maps"}
OF_VAL |= {"predict_segmentation", "refine_predictions", "evaluate"} | PROBE - {
    "train_linear_probe"
}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("images.min_side", IMAGES),
        ("features.shorter_side", FEATURES),
        ("masks.top_k", MASKS),
        ("embedding.input", EMBEDDING),
        ("clustering.iterations", CLUSTERS),
        ("clustering.standardize", CLUSTERS),
        ("mask_rcnn.learning_rate", MASK_RCNN),
        ("mask_rcnn.precision", MASK_RCNN),
        ("candidates.score_floor", CANDIDATES | USE),
        ("confidence.threshold", CONFIDENCE | USE),
        ("segmentation.hardest_fraction", SEGMENTATION),
        # With `crf.rounds: 1`, the next model is trained on refined predictions.
        ("predictions.precision", REFINEMENT | USE),
        ("predictions.longer_side", REFINEMENT | USE),
        ("crf.iterations", REFINEMENT | USE),
        ("evaluation.linear_probe.learning_rate", PROBE),
        ("report.examples", {"report"}),
        ("exports.polygons", set()),
    ],
)
def test_what_follows_a_changed_key(successors: dict, key: str, expected: set) -> None:
    """The expected rules follow from the declarations; test_leaves.py tests Snakemake's plan."""
    assert following(reached(DEFAULTS, key), successors) == expected


# Keys that change which jobs there are, and changes of several keys at once.
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": {"max_rejected": 0.5, "max_rejected_count": 99}}, set()),
        ({"dataset": {"splits": {"instances": "train"}}}, INSTANCES),
        ({"shards": {"val": 2}}, OF_VAL),
        ({"store_features": False}, {"extract_masks"} | EMBEDDING),
        ({"clustering": {"clusters": 5}}, CLUSTERS | USE),
        ({"crf": {"rounds": 2}}, REFINEMENT),
        ({"dataset": {"classes": list("uvwxyz")}}, {"write_ground_truth"} | PROBE | REPORTING),
        ({"evaluation": {"objects": False}}, {"summarize", "report"}),
        ({"evaluation": {"ablations": {"seeds": [3], "lost_patches": 9}}}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_changed_setting(finished: Workflow, change: dict, expected: set) -> None:
    assert set(finished.stale("all", overrides=merge(finished.overrides, change))) == expected


@pytest.fixture(scope="module")
def with_own_labels(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A copy of the finished run whose data count as the user's, not as generated ones."""
    folder = tmp_path_factory.mktemp("own") / "copy"
    shutil.copytree(finished.directory, folder)
    overrides = merge(finished.overrides, {"dataset": {"generate": None}})
    workflow = Workflow(folder, finished.datasets, overrides)
    # The files themselves are the same, so they are only marked as up to date.
    done = workflow.snakemake("all", "--touch")
    assert done.returncode == 0, done.stdout[-3000:]
    assert workflow.stale("all") == {}
    return workflow


@pytest.mark.parametrize(
    ("split", "label_map", "expected"),
    [
        ("val", "SegmentationClass", REPORTING | {"evaluate_linear_probe"}),
        ("val", "SegmentationObject", {"evaluate_instances", "summarize", "report"}),
        ("train", "SegmentationClass", {"write_ground_truth"} | PROBE),
        ("train", "SegmentationObject", set()),
    ],
)
def test_a_corrected_label(
    with_own_labels: Workflow, split: str, label_map: str, expected: set
) -> None:
    data = with_own_labels.directory / "data/demo"
    name = (data / f"ImageSets/Segmentation/{split}.txt").read_text().split()[0]
    path = data / label_map / f"{name}.png"
    before = path.read_bytes()
    path.write_bytes(before + b"corrected")
    try:
        assert set(with_own_labels.stale("all")) == expected
    finally:
        path.write_bytes(before)
    assert with_own_labels.stale("all") == {}


NOT_SHOWN = PROBE | {"unpack_label_maps", "evaluate_instances", "summarize", "report"}


@pytest.fixture(scope="module")
def with_gallery(finished: Workflow) -> Workflow:
    """The finished run, with its gallery."""
    done = finished.snakemake("gallery")
    assert done.returncode == 0, done.stdout[-6000:]
    return finished


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set()),
        ({"report": {"examples": 3}}, set()),
        ({"crf": {"iterations": 7}}, (REFINEMENT - NOT_SHOWN) | {"write_gallery"}),
        ({"confidence": {"threshold": 0.8}}, (CONFIDENCE - NOT_SHOWN) | {"write_gallery"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_the_gallery_follows_what_it_shows(
    with_gallery: Workflow, change: dict, expected: set
) -> None:
    overrides = merge(with_gallery.overrides, change)
    assert set(with_gallery.stale("gallery", overrides=overrides)) - {"gallery"} == expected
    if not change:
        # `all` does not make the gallery, because it is made on request only.
        assert with_gallery.stale("all") == {}


NAMING = {"unpack_label_maps", "report"} | USE
MERGING = {"paint_masks", "write_pseudo_labels"} | MASK_RCNN | USE
# Rules of the target `exports`, which `all` does not run.
EXPORTS = {"export_dataset", "export_model", "exports"}


@pytest.fixture
def named(finished: Workflow):
    """A function that writes the demo's file of names; the file is removed after the test."""
    path = finished.directory / "config" / "names" / "demo.yaml"

    def write(clusters: dict, seed: int = 0, **more) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"seeds": {seed: {"clusters": clusters, **more}}}
        path.write_text(yaml.safe_dump(content))

    yield write
    path.unlink()


@pytest.mark.parametrize(
    ("clusters", "expected"),
    [
        ({1: "cluster_001", 5: "cluster_005"}, set()),
        ({1: "bird", 5: "boat"}, NAMING),
        ({2: "bird", 4: "bird"}, MERGING),
        ({3: "background"}, MERGING),
    ],
)
def test_names_of_clusters(finished: Workflow, named, clusters: dict, expected: set) -> None:
    named(clusters)
    assert set(finished.stale("all")) == expected


def test_the_gallery_shows_names(with_gallery: Workflow, named) -> None:
    named({1: "bird", 5: "boat"})
    assert set(with_gallery.stale("gallery")) - {"gallery"} == {"write_gallery"}


def test_which_clusters_were_looked_at_makes_nothing_stale(finished: Workflow, named) -> None:
    named({}, assignments="0123456789abcdef")
    assert finished.stale("all") == {}


def test_names_of_a_seed_that_there_is_not_are_pointed_out(finished: Workflow, named) -> None:
    named({2: "bird", 4: "bird"}, seed=7)
    done = finished.snakemake("--dry-run", "all")
    assert done.returncode == 0
    assert done.stdout.count("names of clusters of seed 7 are not used") == 1
    assert "Nothing to be done" in done.stdout


def test_names_of_unknown_clusters_are_one_line(finished: Workflow, named) -> None:
    named({7: "bird"})
    done = finished.snakemake("--dry-run", "all")
    assert done.returncode != 0
    assert "demo.yaml: there is no cluster 7; clusters are 1 to 6" in done.stdout
    assert "Traceback" not in done.stdout


def test_exports_come_after_everything(finished: Workflow) -> None:
    # The rules are forced, because other tests may have made the exports.
    stale = finished.stale("exports", "--forcerun", "export_dataset", "export_model")
    assert set(stale) == EXPORTS
    assert stale["export_dataset"] == 6


@pytest.mark.parametrize(
    "runtime",
    [{"batch_size": 3}, {"threads": 2}, {"checkpoint_every": 7}, {"device": "auto", "gpus": 2}],
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
    # The copied files have new times, on which nothing may depend.
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
        ("segmentation/crf.py", "import ", "# A comment.\nimport ", set()),
        ("discovery/affinity.py", '"""Object masks', '"""All object masks', set()),
        ("discovery/affinity.py", "to_source > 0]", "to_source > 0.0]", MASKS),
        ("segmentation/confidence.py", "ranked[:1]", "ranked[:2]", CONFIDENCE),
        ("segmentation/crf.py", "def ", "ANSWER = 42\n\n\ndef ", REFINEMENT),
        ("segmentation/dense_crf.py", "def ", "ANSWER = 42\n\n\ndef ", MASKS),
        ("discovery/clustering.py", "squared / 2", "squared * 0.5", CLUSTERS),
        ("evaluation/matching.py", "def ", "ANSWER = 42\n\n\ndef ", SCORES),
        ("files/masks.py", "import ", "import   ", set()),
    ],
)  # fmt: skip
def test_changed_code(
    finished: Workflow, checkout: Path, module: str, old: str, new: str, expected: set
) -> None:
    edit(checkout, module, old, new)
    stale = finished.stale("all", repository=checkout)
    assert set(stale) == expected


@pytest.mark.parametrize(
    ("module", "programs"),
    [
        (
            "discovery.vit",
            {"extract_features", "extract_masks", "embed_masks", "train_vit_head"},
        ),
        ("discovery.affinity", {"make_masks", "extract_masks"}),
        ("discovery.embedding", {"embed_masks"}),
        (
            "discovery.clustering",
            {
                *("cluster_masks", "assign_masks", "draw_contact_sheets"),
                *("compare_cluster_counts", "map_masks"),
            },
        ),
        ("discovery.cluster_counts", {"compare_cluster_counts", "map_masks"}),
        ("discovery.mask_map", {"map_masks"}),
        (
            "files.coco_json",
            {
                "report",
                "write_pseudo_labels",
                "write_results",
                "evaluate_instances",
                "draw_contact_sheets",
                "export_dataset",
                "write_applied",
                "write_gallery",
            },
        ),
        ("mask_rcnn.fitting", {"train_mask_rcnn", "predict_candidates"}),
        ("segmentation.confidence", {"filter_candidates"}),
        (
            "segmentation.learning",
            {"train_segmentation", "train_linear_probe", "train_vit_head"},
        ),
        ("segmentation.crf", {"refine_predictions"}),
        ("segmentation.dense_crf", {"refine_predictions", "make_masks", "extract_masks"}),
        (
            "settings.sections.crf",
            {"refine_predictions", "make_masks", "extract_masks", "report"},
        ),
        ("settings.sections.masks", {"make_masks", "extract_masks", "report"}),
        ("settings.sections.linear_probe", {"train_linear_probe", "report"}),
        ("settings.sections.evaluation", {"report"}),
        ("evaluation.matching", {"evaluate", "evaluate_instances", "report", "write_gallery"}),
        ("pictures.step_colours", {"report", "write_gallery"}),
        (
            "evaluation.step_titles",
            {
                *("check_health", "evaluate_instances", "report"),
                *("tabulate_ablation", "write_gallery"),
            },
        ),
        ("report.health", {"check_health", "report"}),
        ("report.document", {"report"}),
        ("report.times", {"report"}),
        ("paper.comparison", {"report", "tabulate_ablation"}),
    ],
)
def test_the_programs_that_hold_a_module(module: str, programs: set) -> None:
    """After a change of the module, the outputs of exactly these programs are stale."""
    paths = (REPOSITORY / "workflow_scripts").glob("*.py")
    rules = {path.stem for path in paths} & {*declared_settings(REPOSITORY)}
    name = f"workflow_scripts.maskdistill.{module}"
    found = {
        rule for rule in rules if name in import_closure(f"workflow_scripts.{rule}", REPOSITORY)
    }
    assert found == programs


def test_resources_and_messages_of_a_rule_make_nothing_stale(
    finished: Workflow, checkout: Path
) -> None:
    path = checkout / "rules" / "features.smk"
    text = path.read_text()
    for old in ("mem_mb=attempts(8000)", "runtime=attempts(120)", '"Extract features of '):
        assert old in text
        new = old.replace("8000", "9000").replace("120", "99").replace("Extract", "Compute")
        text = text.replace(old, new)
    path.write_text("# A comment.\n" + text)
    assert finished.stale("all", repository=checkout) == {}


def test_make_stale_names_the_setting_with_both_values(finished: Workflow) -> None:
    changed = merge(finished.overrides, {"masks": {"top_k": 0.3}})
    command = finished.command(overrides=changed)
    arguments = [word for word in command[3:] if word not in ("--cores", "2")]
    done = subprocess.run(
        [command[0], "-m", "workflow_scripts.stale", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "warning:" not in line]
    rows = [" ".join(line.split()) for line in lines]
    assert rows[1] == "demo make_masks 3 masks.top_k: 0.2 → 0.3"
    assert {row.split()[1] for row in rows[1:-2]} == MASKS
