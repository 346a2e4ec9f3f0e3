"""What the rules ask of a run."""

import json

import pytest

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import frozen
from workflow_scripts.maskdistill.runs.declared_settings import Declaration
from workflow_scripts.maskdistill.runs.run import Run, parts_of, run_name
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml

DEFAULT = read_yaml(REPOSITORY / "config" / "default.yaml")


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """A function that gives the run of the demo with these settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("resources/demo_backbone.safetensors", "resources/demo_resnet.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def get(overrides, **changes):
        config = merge(DEFAULT, {"overrides": overrides, **changes})
        return Run(frozen.parse(config, REPOSITORY, rules="abc"), REPOSITORY)

    return get


def test_shards_of_splits_and_of_new_folders(run_of, tmp_path):
    folder = tmp_path / "my.photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").touch()
    run = run_of({"shards": {"train": 3, "val": 2}}, apply=str(folder))
    assert run.shards("demo", "train") == ["0000", "0001", "0002"]
    assert run.shards("demo", "val") == ["0000", "0001"]
    assert run.shards("demo", "applied/my.photos") == ["0000"]
    assert run.root("demo") == run.root("demo/val") == "data/demo"
    assert run.root("demo/applied/my.photos") == str(folder)
    declared = Declaration(("dataset.adapter", "dataset.splits.{split}", "shards"))
    job = {"dataset": "demo", "split": "applied/my.photos", "shard": "0000"}
    assert json.loads(run.settings(declared, job)) == {
        "dataset": {"adapter": "folder", "splits": {"applied/my.photos": "."}},
        "shards": 1,
    }
    before = run.listing_digest("demo", "applied/my.photos", 0)
    (folder / "3.jpg").touch()
    assert run.listing_digest("demo", "applied/my.photos", 0) == before  # of when it was planned
    again = run_of({}, apply=str(folder))
    assert again.listing_digest("demo", "applied/my.photos", 0) != before
    assert again.listing_digest("demo", "train", 0) == again.labels_digest("demo", "val")
    assert again.labels_digest("demo", "val") == "generated"


def test_settings_and_names_of_a_variant(run_of, tmp_path):
    (tmp_path / "config" / "names").mkdir(parents=True)
    names = "seeds: {0: {assignments: 0123456789abcdef, clusters: {2: bird, 5: bird}}}"
    (tmp_path / "config" / "names" / "demo.yaml").write_text(names)
    run = run_of({"evaluation": {"ablations": {"clusters": [9], "threshold": [0.5]}}})
    declared = Declaration(("clustering.clusters", "confidence.threshold"))

    def settings(**wildcards):
        found = json.loads(run.settings(declared, {"dataset": "demo", **wildcards}))
        return found["clustering"]["clusters"], found["confidence"]["threshold"]

    own = run.config("demo")
    threshold = own["confidence"]["threshold"]
    assert settings(seed="0") == settings() == (5, threshold)
    assert settings(seed="1") == (6, threshold)
    assert settings(seed="0", run="demo/ablations/threshold-0.5") == (5, 0.5)
    assert settings(seed="0", run="demo/ablations/clusters-9") == (9, threshold)
    clusters = run_name("demo", "clusters-9")
    assert run.folder(clusters, "images") == run.folder(clusters, "masks") == "results/demo"
    assert run.folder(clusters, "clusters") == "results/demo/ablations/clusters-9"
    assert run.folder("demo", "segmentation") == "results/demo"
    assert run.expected_assignments("demo", 0) == "0123456789abcdef"
    assert run.expected_assignments("demo", 1) is None


@pytest.mark.parametrize("split", [None, "val", "applied/ablations", "applied/my.photos"])
@pytest.mark.parametrize("variant", ["main", "top_k-0.3", "lost"])
def test_the_name_of_a_run_says_what_it_is(variant, split):
    place = "/".join(filter(None, [run_name("demo", variant), split]))
    assert parts_of(place) == ("demo", None if variant == "main" else variant, split)


def test_variants_have_candidates_of_their_own_where_asked(run_of):
    for asked in (False, True):
        ablations = {"clusters": [9], "threshold": [0.5], "train_mask_rcnn": asked}
        run = run_of({"evaluation": {"ablations": ablations}})
        assert run.has_candidates("demo")
        assert run.has_candidates(run_name("demo", "clusters-9")) == asked
        for shared in ("threshold-0.5", "boxes", "all_pixels", "lost"):
            assert not run.has_candidates(run_name("demo", shared))


def test_what_is_made_follows_the_config(run_of):
    run = run_of({"seeds": [3, 4], "crf": {"enabled": True, "rounds": 1}})
    assert run.results("demo", "val")["predictions"] == (
        "results/demo/seed-3/round-1/val/predictions_crf"
    )
    assert run.targets("demo")[-3:] == [
        "results/demo/seed-3/use.json",
        "results/demo/seed-4/use.json",
        "results/demo/metrics.json",
    ]
    unlabelled = run_of({"dataset": {"ground_truth": False}, "crf": {"enabled": False}})
    assert "results/demo/metrics.json" not in unlabelled.targets("demo")
    assert not unlabelled.has_linear_probe("demo")
    assert run.has_objects("demo")
    assert not unlabelled.has_objects("demo")
    assert not run_of({"evaluation": {"objects": False}}).has_objects("demo")
    assert unlabelled.results("demo", "val")["predictions"].endswith("/val/predictions")


def test_weights_are_watched_by_their_content(run_of, tmp_path, monkeypatch):
    """Fetched ones have the recorded content; whether they are here counts for nothing."""
    fetched = "data/weights/vit_small_patch16_224.dino.safetensors"
    backbone = {"backbone": "vit_small_patch16_224.dino", "backbone_options": {}, "weights": None}
    pins = tmp_path / "resources" / "checksums.json"

    def digest():
        run = run_of({"features": backbone})
        assert run.timm_weights() == {fetched: "vit_small_patch16_224.dino"}
        monkeypatch.setattr(run, "_home", tmp_path)
        return run.weights_digest(fetched)

    assert digest() == ""  # not here yet
    (tmp_path / fetched).parent.mkdir(parents=True)
    (tmp_path / fetched).write_bytes(b"weights")
    own = digest()
    assert len(own) == 64  # put here by hand
    pin = {"bytes": 7, "sha256": own}
    pins.write_text(json.dumps({"timm:vit_small_patch16_224.dino": pin}))
    assert digest() == ""  # fetched
    (tmp_path / fetched).write_bytes(b"others!")
    assert digest() not in ("", own)  # replaced
    (tmp_path / fetched).unlink()
    assert digest() == ""
    assert run_of({}).weights_digest(None) == ""
