from pathlib import Path

import pytest

from workflow_scripts.maskdistill.report import times


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("train/masks/0003.tsv", "make_masks"),
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
        ("instances/masks/0003.tsv", "make_masks"),
        ("seed-0/instances.tsv", "evaluate_instances"),
    ],
)
def test_rule_of_a_benchmark_file(path, rule):
    assert times.rule_of_benchmark(Path(path), ["train", "val"]) == rule


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
