import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from workflow_scripts.maskdistill import coco, inspection, label_maps, shards, terminal
from workflow_scripts.maskdistill.errors import InputError


def describe(path, **options):
    (group,) = inspection.expand(str(path))
    return "\n".join(inspection.describe(group, **options))


def row_of(text, name):
    """The cells of the table's row that begins with `name`."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name + "  ")]
    return line.strip()[len(name) :].split()


@pytest.fixture
def tree(results):
    return results / "results" / "tiny"


@pytest.fixture
def copied(results, tmp_path):
    return shutil.copytree(results / "results" / "tiny", tmp_path / "tiny")


def test_masks(tree):
    text = describe(tree / "train" / "masks", check=True)
    assert "object masks from the affinities (Eq. 1 and 2): 4 rows in 2 shards" in text
    assert "masks.top_k             0.3" in text
    assert "torch" in text.split("versions")[1]
    assert "4 images, with 1 to 1 masks each, 1 on average" in text
    assert row_of(text, "ok")[:2] == ["4", "100.0%"]
    table = shards.read_table(sorted((tree / "train" / "masks").glob("*")))
    count, least, *_, most = row_of(text, "area")[:6]
    areas = table["area"].to_pylist()
    assert count == "4"
    assert [least, most] == [terminal.number(min(areas)), terminal.number(max(areas))]
    assert "checked: every row can be read, 4 masks decoded" in text


def test_a_manifest_counts_what_was_rejected(tree):
    text = describe(tree / "val" / "images")
    assert row_of(text, "ok")[:2] == ["3", "75.0%"]
    assert row_of(text, "truncated or damaged: <b>cut</b>")[:2] == ["1", "25.0%"]


def test_features(tree):
    text = describe(tree / "val" / "features")
    assert row_of(text, "patches")[:2] == ["3", "150"]
    assert row_of(text, "heads")[:2] == ["3", "2"]
    assert "patch_size" in text


def test_embeddings_and_centroids(tree):
    text = describe(tree / "train" / "mask_embeddings" / "0000.parquet")
    assert row_of(text, "dimensions")[:2] == ["2", "4"]
    assert row_of(text, "norm")[1] == "2"  # of (1, 1, 1, 1)
    text = describe(tree / "seed-0" / "clusters" / "centroids.parquet")
    assert row_of(text, "cosine to the nearest other")[:2] == ["2", "0"]


def test_assignments_show_the_sizes_of_clusters(tree):
    text = describe(tree / "seed-0" / "clusters" / "assignments.parquet")
    assert row_of(text, "1")[0] == row_of(text, "2")[0] == "2"
    assert row_of(text, "distance")[0] == "4"
    assert ["seed", "0"] in [line.split() for line in text.splitlines()]


def test_candidates_count_images_without_any(tree):
    text = describe(tree / "seed-0" / "val" / "candidates")
    assert "3 images, with 0 to 2 candidates each, 1.33 on average; 1 without any" in text
    assert row_of(text, "score")[1:2] == ["0.2"]


def test_label_maps(tree):
    text = describe(tree / "seed-0" / "val" / "label_maps")
    assert "1 images are nothing but background" in text
    images, share = row_of(text, "1")[:2]
    assert images == "1"
    assert share == f"{19 * 28 / (3 * 40 * 60):.2%}"
    sampled = describe(tree / "seed-0" / "val" / "label_maps", sample=2)
    assert "(of 2 images, evenly spread)" in sampled


def test_label_maps_as_files(tmp_path):
    labels = np.zeros((4, 5), np.uint8)
    labels[0] = 3
    labels[1] = label_maps.IGNORE
    for name in ("a", "b/c"):
        path = tmp_path / "label_maps" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(label_maps.encode_png(labels))
    text = describe(tmp_path / "label_maps")
    assert "2 label maps as PNG" in text
    assert row_of(text, "3")[:2] == ["2", "25.00%"]
    assert row_of(text, "ignore")[:2] == ["2", "25.00%"]
    (tmp_path / "label_maps" / "a.png").write_bytes(label_maps.encode_png(labels)[:60])
    with pytest.raises(InputError, match=r"a\.png: not a label map"):
        describe(tmp_path / "label_maps")


def test_scores(tree):
    text = describe(tree / "seed-0" / "metrics.json")
    assert "scores of 3 images of the split 'val'" in text
    assert row_of(text, "miou")[-1] == row_of(text, "pixel_accuracy")[-1] == "100.0"
    assert row_of(text, "matching.method") == ["hungarian"] * 3
    for name in ("per_class.csv", "per_class.parquet"):
        text = describe(tree / "seed-0" / name)
        assert "scores by class" in text
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
    (tmp_path / "instances.json").write_text(json.dumps(content))
    text = describe(tmp_path / "instances.json")
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
    provenance = shards.provenance("pseudo_labels", {"clustering": {"clusters": 2}})
    path = tmp_path / "pseudo_labels.json"
    names = coco.category_names(2, None)
    path.write_text(json.dumps(coco.dataset(images, masks[1:], clusters, names, provenance)))
    text = describe(path)
    assert "COCO dataset: 4 images, 3 annotations, 2 categories" in text
    assert "clustering.clusters  2" in text
    assert "1 images without annotation" in text
    assert row_of(text, "2 cluster_002")[:2] == ["3", "100.0%"]
    candidates = list(shards.read_rows(tree / "seed-0/train/candidates/0000.parquet"))
    (tmp_path / "candidates.json").write_text(json.dumps(list(coco.results(candidates))))
    text = describe(tmp_path / "candidates.json")
    assert "COCO results: 4 scored masks of 2 images" in text
    assert row_of(text, "score")[0] == "4"


def test_models(tmp_path):
    state = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.tensor([1.0, float("nan")])}
    model = {"engine": "torchvision", "settings": {"depth": 10}, "clusters": 6, "seed": 1}
    torch.save({**model, "state_dict": state}, tmp_path / "model.pt")
    text = describe(tmp_path / "model.pt")
    assert "Mask R-CNN, engine torchvision: 2 tensors" in text
    assert "settings.depth  10" in text
    assert row_of(text, "conv") == ["2", "8", "float32", "1"]
    torch.save({"settings": {"depth": 10}, "clusters": 6, "state_dict": state}, tmp_path / "s.pt")
    assert "segmentation model" in describe(tmp_path / "s.pt")
    save_file(state, tmp_path / "weights.safetensors")
    text = describe(tmp_path / "weights.safetensors")
    assert "weights: 2 tensors" in text
    assert shards.file_digest(tmp_path / "weights.safetensors") in text


def test_loss_histories(tmp_path):
    (tmp_path / "history.csv").write_text("step,loss,loss_mask\n1,2.0,1.5\n2,1.0,\n3,0.5,0.25\n")
    text = describe(tmp_path / "history.csv")
    assert "3 rows, to step 3" in text
    assert row_of(text, "loss")[:3] == ["2", "0.5", "0.5"]
    assert row_of(text, "loss_mask")[:3] == ["1.5", "0.25", "0.25"]
    (tmp_path / "history.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    assert row_of(describe(tmp_path / "history.jsonl"), "loss")[:3] == ["2", "1", "1"]


def test_other_outputs(tmp_path):
    (tmp_path / "report.html").write_text("<title>demo – MaskDistill</title>")
    assert "page for a browser" in describe(tmp_path / "report.html")
    (tmp_path / "a.tsv").write_text("s\th:m:s\tmax_rss\n3.5\t0:00:03\t812.3\n")
    assert "benchmark of a job: 3.5 s, 812.3 MB" in describe(tmp_path / "a.tsv")
    (tmp_path / "complete.json").write_text('{"train": 3}')
    assert "generated dataset that is complete" in describe(tmp_path / "complete.json")
    Image.new("RGB", (7, 5)).save(tmp_path / "a.jpg")
    assert "image, JPEG RGB: 5 x 7 px" in describe(tmp_path / "a.jpg")


def test_shards_made_in_different_ways_are_pointed_out(copied):
    path = copied / "train" / "masks" / "0001.parquet"
    rows = list(shards.read_rows(path))
    metadata = shards.read_metadata(path)
    metadata["settings"]["masks"]["top_k"] = 0.5
    shards.write_table(path, "masks", rows, metadata)
    text = describe(copied / "train" / "masks")
    assert "CAUTION: made in 2 different ways" in text
    assert "1 files, 0001.parquet among them" in text


def test_a_wrong_area_is_found_by_checking(copied):
    path = copied / "train" / "masks" / "0001.parquet"
    rows = list(shards.read_rows(path))
    rows[0]["area"] += 1
    shards.write_table(path, "masks", rows, shards.read_metadata(path))
    describe(copied / "train" / "masks")
    with pytest.raises(InputError, match=r"0001\.parquet: image 2: a mask of .* pixels"):
        describe(copied / "train" / "masks", check=True)


def test_a_mask_that_is_none_is_found_by_checking(copied):
    path = copied / "train" / "masks" / "0000.parquet"
    rows = list(shards.read_rows(path))
    rows[0]["rle_counts"] = rows[0]["rle_counts"][:2]
    shards.write_table(path, "masks", rows, shards.read_metadata(path))
    with pytest.raises(InputError, match=r"0000\.parquet: image 0: a mask"):
        describe(copied / "train" / "masks", check=True)


def test_a_damaged_label_map_in_a_shard(copied):
    path = copied / "seed-0" / "val" / "label_maps" / "0000.parquet"
    rows = list(shards.read_rows(path))
    rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:50]
    shards.write_table(path, "label_maps", rows, shards.read_metadata(path))
    with pytest.raises(InputError, match=r"0000\.parquet: .*a damaged label map"):
        describe(path)


def test_a_gallery_is_one_thing(tmp_path):
    index = {"stages": [{"title": "Masks"}], "splits": ["train"]}
    index["images"] = [{"status": []}, {"status": ["rejected"]}]
    folder = tmp_path / "gallery"
    (folder / "images").mkdir(parents=True)
    for name in ("gallery.js", "index.html", "images/1.js", "images/1.jpg"):
        (folder / name).write_text("x")
    (folder / "index.js").write_text(f"GALLERY.index({json.dumps(index)});\n")
    text = describe(tmp_path)
    assert "gallery of 2 images" in text
    assert row_of(text, "rejected")[:2] == ["1", "50.0%"]
    (folder / "index.js").write_text("GALLERY.index({")
    with pytest.raises(InputError, match="a damaged gallery"):
        describe(folder)


def test_unpacked_label_maps_of_a_tree_stay_apart(tmp_path):
    for folder in ("label_maps", "predictions"):
        (tmp_path / folder / "JPEGImages").mkdir(parents=True)
        for name in ("a", "b"):
            path = tmp_path / folder / "JPEGImages" / f"{name}.png"
            path.write_bytes(label_maps.encode_png(np.zeros((2, 2), np.uint8)))
        (tmp_path / folder / "labelmap.txt").write_text(label_maps.legend(["cat"]))
    # For other tools and for people:
    for name in ("exports/yolo/data.yaml", "seed-0/contact_sheets/names.yaml"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    groups = inspection.expand(str(tmp_path))
    assert [[f.relative_to(tmp_path).parts[0] for f in group] for group in groups] == [
        ["label_maps"] * 2,
        ["predictions"] * 2,
    ]


FOREIGN = {
    "a.js": b"alert(1)",
    "a.md": b"# text",
    "a.json": b'{"a": 1}',
    "list.json": b"[1, 2]",
    "a.csv": b"a,b\n1,2\n",
    "a.jsonl": b'{"a": 1}\n',
    "a.tsv": b"a\tb\n1\t2\n",
    "a.html": b"<html></html>",
}
DAMAGED = {
    "a.parquet": b"PAR1 but not really",
    "a.json": b'{"a": ',
    "binary.json": b"\xff\xfe\x00",
    "a.csv": b"step,loss\n1,abc\n",
    "a.jsonl": b'{"step": 1, "lo',
    "a.pt": b"PK\x03\x04 cut",
    "a.safetensors": b"\x00" * 20,
    "a.png": b"\x89PNG cut",
    "a.jpg": b"\xff\xd8 cut",
    "empty.parquet": b"",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(tmp_path, name):
    (tmp_path / name).write_bytes(FOREIGN[name])
    with pytest.raises(InputError, match=rf"{name}: a foreign file") as error:
        describe(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(InputError, match=rf"{name}: .*(damaged|not a|empty)") as error:
        describe(tmp_path / name)
    assert "\n" not in str(error.value)


def test_parquet_files_of_others(tmp_path):
    pq.write_table(pa.table({"image_id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: .*not one of MaskDistill"):
        describe(tmp_path / "a.parquet")


def test_columns_of_another_version(tmp_path):
    schema = pa.schema([("image_id", pa.int64())]).with_metadata(
        {shards.METADATA_KEY: json.dumps(shards.provenance("masks", {}))}
    )
    pq.write_table(pa.Table.from_pylist([{"image_id": 1}], schema), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="stage 'masks', but with other columns"):
        describe(tmp_path / "a.parquet")


def test_expanding_paths(tree):
    pattern = str(tree / "*" / "masks" / "*.parquet")
    assert [len(group) for group in inspection.expand(pattern)] == [2, 2]
    assert len(inspection.expand(str(tree))) > 10
    with pytest.raises(InputError, match="no such file"):
        inspection.expand(str(tree / "nothing" / "*"))


def test_overview(copied):
    (copied / "train" / "masks" / "0001.parquet").write_bytes(b"PAR1")
    lines, faults = inspection.overview(inspection.expand(str(copied)))
    text = "\n".join(lines)
    assert "scored candidates of Mask R-CNN" in text
    total = sum(path.stat().st_size for path in (copied / "val" / "images").iterdir())
    found = row_of(text, str(copied / "val" / "images"))
    assert found[-4:] == ["2", "4", *terminal.size(total).split()]
    assert len(faults) == 1
    assert "0001.parquet: damaged" in faults[0]
