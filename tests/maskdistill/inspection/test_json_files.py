import json

from tests.maskdistill.inspection import describe, row_of
from workflow_scripts.maskdistill.files import coco_json, provenance, shards


def test_scores(tree):
    text = describe(tree / "seed-0" / "metrics.json")
    assert "scores of 3 images of the split 'val'" in text
    assert row_of(text, "miou")[-1] == row_of(text, "pixel_accuracy")[-1] == "100.0"
    assert row_of(text, "matching.method") == ["hungarian"] * 3
    for name, title in (
        ("per_class.csv", "table: 9 rows"),
        ("per_class.parquet", "scores by class"),
    ):
        text = describe(tree / "seed-0" / name)
        assert title in text
        assert "dog" in text


def test_mean_scores_and_scores_of_objects(tmp_path):
    content = {"split": "val", "images": 3, "class_names": ["cat"], "runs": 2}
    content["steps"] = {
        "mask_rcnn": {
            "ap": {"mean": 0.25, "sd": 0.03, "n": 2},
            "aware": {"ap50": 0.5, "objects": 1234, "ap75": None},
            "per_class": {"cat": 1.0},
            "matching": ["hungarian"],
        }
    }
    content["matched_on"] = {"split": "val", "images": 1449}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    text = describe(tmp_path / "instances.json")
    assert "matching of clusters and classes on 1,449 images of the split 'val'" in text
    assert "mean scores over 2 runs of 3 images" in text
    assert row_of(text, "ap") == ["25.0", "±", "3.0"]
    assert row_of(text, "aware.ap50") == ["50.0"]
    assert row_of(text, "aware.objects") == ["1,234"]
    assert row_of(text, "aware.ap75") == ["–"]
    assert "per_class" not in text


def test_coco_files(tree, tmp_path):
    masks = [r for p in sorted((tree / "train/masks").glob("*")) for r in shards.read_rows(p)]
    images = [r for p in sorted((tree / "train/images").glob("*")) for r in shards.read_rows(p)]
    clusters = {(row["image_id"], row["mask_id"]): 2 for row in masks}
    made_by = provenance.record("pseudo_labels", {"clustering": {"clusters": 2}})
    path = tmp_path / "pseudo_labels.json"
    names = coco_json.category_names(2, None)
    path.write_text(
        json.dumps(coco_json.dataset(images, masks[1:], clusters, names, {"provenance": made_by}))
    )
    text = describe(path)
    assert "COCO dataset: 4 images, 3 annotations, 2 categories" in text
    assert "clustering.clusters  2" in text
    assert "1 images without annotation" in text
    assert row_of(text, "2 cluster_002")[:2] == ["3", "100.0%"]
    candidates = list(shards.read_rows(tree / "seed-0/train/candidates/0000.parquet"))
    (tmp_path / "candidates.json").write_text(json.dumps(list(coco_json.results(candidates))))
    text = describe(tmp_path / "candidates.json")
    assert "COCO results: 4 scored masks of 2 images" in text
    assert row_of(text, "score")[0] == "4"


def test_loss_histories(tmp_path):
    (tmp_path / "history.csv").write_text("step,loss,loss_mask\n1,2.0,1.5\n2,1.0,\n3,0.5,0.25\n")
    text = describe(tmp_path / "history.csv")
    assert "3 rows, to step 3" in text
    assert row_of(text, "loss")[:3] == ["2", "0.5", "0.5"]
    assert row_of(text, "loss_mask")[:3] == ["1.5", "0.25", "0.25"]
    (tmp_path / "history.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    assert row_of(describe(tmp_path / "history.jsonl"), "loss")[:3] == ["2", "1", "1"]


def test_small_files(tmp_path):
    (tmp_path / "a.tsv").write_text("s\th:m:s\tmax_rss\n3.5\t0:00:03\t812.3\n")
    assert "benchmark of a job: 3.5 s, 812.3 MB" in describe(tmp_path / "a.tsv")
    (tmp_path / "complete.json").write_text('{"train": 3}')
    assert "generated dataset that is complete" in describe(tmp_path / "complete.json")
    (tmp_path / "rejected.csv").write_text("file_name,status\na.jpg,truncated\n")
    text = describe(tmp_path / "rejected.csv")
    assert "unusable images: 1" in text
    assert row_of(text, "truncated")[0] == "1"


def test_an_ablation(tmp_path):
    content = {
        "provenance": provenance.record("tabulate_ablation", {"clustering": {"clusters": 6}})
    }
    content |= {"title": "Table 1: what each component adds", "tables": []}
    (tmp_path / "table_1.json").write_text(json.dumps(content))
    text = describe(tmp_path / "table_1.json")
    assert "written by tabulate_ablation" in text
    assert row_of(text, "clustering.clusters") == ["6"]
    header = "table,matching,row,column,mean,sd,n,paper,difference\n"
    (tmp_path / "table_1.csv").write_text(f"{header}mIoU,hungarian,crf,mIoU,0.5,,1,0.489,0.011\n")
    text = describe(tmp_path / "table_1.csv")
    assert "table: 1 rows" in text
    assert row_of(text, "mIoU") == ["hungarian", "crf", "mIoU", "0.5", "1", "0.489", "0.011"]
