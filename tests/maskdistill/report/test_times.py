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
