from pathlib import Path

import pytest

from workflow_scripts.maskdistill.files import provenance, shards
from workflow_scripts.maskdistill.report import times
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.rule_texts import benchmark_paths

WILDCARDS = {
    "{split}": "val",
    "{shard}": "0003",
    "{seed}": "7",
    "{round}": "1",
    "{in_round}": "round-1/",
    "{kind}": "predictions",
    "{format}": "voc",
}


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("train/masks/0003.tsv", "make_masks or extract_masks"),
        ("val/mask_embeddings/0000.tsv", "embed_masks"),
        ("seed-0/clusters/assignments.tsv", "cluster_masks"),
        ("seed-12/round-2/segmentation/model.tsv", "train_segmentation"),
        ("seed-0/round-1/val/predictions/0001.tsv", "predict_segmentation"),
        ("seed-0/metrics.tsv", "evaluate"),
        ("metrics.tsv", "summarize"),
        ("seed-0/val/candidates/0000.tsv", "predict_candidates"),
        ("seed-0/val/candidates.tsv", "write_results"),
        ("something/else.tsv", "something/else"),
        ("seed-0/applied/new_photos/candidates/0000.tsv", "predict_candidates"),
        ("applied/new_photos/images/0000.tsv", "list_images"),
        ("applied/new_photos/label_maps.tsv", "write_applied"),
        ("exports/voc.tsv", "export_dataset"),
        ("instances/masks/0003.tsv", "make_masks or extract_masks"),
        ("seed-0/instances.tsv", "evaluate_instances"),
    ],
)
def test_rule_of_a_benchmark_file(tmp_path, path, rule):
    assert times.rule_of_benchmark(Path(path), ["train", "val"], tmp_path) == rule


def test_the_rule_of_every_benchmark_in_the_workflow():
    paths = benchmark_paths(REPOSITORY)
    own = {rule: path for rule, path in paths.items() if not path.startswith("ablations/")}
    assert len(own) > 25
    for rule, path in own.items():
        for wildcard, value in WILDCARDS.items():
            path = path.replace(wildcard, value)
        assert "{" not in path
        told = times.rule_of_benchmark(Path(path), ["val"], Path("nowhere"))
        assert rule in told.split(" or "), path
    written = list(own.values())
    shared = {rule for rule, path in own.items() if written.count(path) > 1}
    assert shared == {"make_masks", "extract_masks"}


def test_masks_are_told_apart_by_their_provenance(tmp_path):
    benchmarks, results = (tmp_path / kind / "tiny" for kind in ("benchmarks", "results"))
    for number, (name, rule) in enumerate(
        (
            ("train/masks/0000", "make_masks"),
            ("train/masks/0001", "extract_masks"),
            ("val/masks/0000", "extract_masks"),
            ("val/features/0000", None),
            ("instances/masks/0000", None),
        )
    ):
        benchmark = (benchmarks / name).with_suffix(".tsv")
        benchmark.parent.mkdir(parents=True, exist_ok=True)
        benchmark.write_text(f"s\tmax_rss\n{10**number}\t5\n")
        if rule:
            path = (results / name).with_suffix(".parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            shards.write_table(path, "masks", [], provenance.record("masks", {}, program=rule))
    found = times.timings(benchmarks, ["train", "val"], [0])
    assert {row["rule"]: (row["jobs"], row["sum"]) for row in found} == {
        "extract_features": (1, 1000),
        "make_masks": (1, 1),
        "extract_masks": (2, 110),
        "make_masks or extract_masks": (1, 10000),
    }
    assert found[0]["rule"] == "extract_features"


def test_ablations_and_their_seeds_are_no_part_of_the_run(tmp_path):
    for number, name in enumerate(
        ("metrics", "seed-0/metrics", "seed-1/metrics", "ablations/boxes/seed-0/metrics")
    ):
        path = (tmp_path / name).with_suffix(".tsv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\n{10**number}\t5\n")

    def seconds(seeds):
        return {row["rule"]: row["sum"] for row in times.timings(tmp_path, ["val"], seeds)}

    assert seconds([0]) == {"summarize": 1, "evaluate": 10}
    assert seconds([0, 1]) == {"summarize": 1, "evaluate": 110}
