"""The benchmark on photographs: scores against values computed by hand, TokenCut, plan, table."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import normalized_mutual_info_score

from tests.bench.photos import costs, scores, token_cut, workflow
from tests.bench.photos.__main__ import main, names_of
from tests.bench.photos.measure import Measurement
from tests.bench.photos.plan import choose_photographs, parse_transformer, write_plan
from tests.bench.photos.table import table
from workflow_scripts.maskdistill.data.datasets import list_images
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, masks, provenance, shards
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.variants import MAIN
from workflow_scripts.maskdistill.settings.layers import read_yaml

VOID = label_maps.IGNORE
# Four pixels have class 1, two have class 2, two are ignored, and eight are background.
LABELS = np.array([[1, 1, 0, 0], [1, 1, VOID, 0], [0, 0, VOID, 2], [0, 0, 0, 2]], np.uint8)


def region(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(LABELS.shape, bool)
    mask[rows, columns] = True
    return mask


LEFT = region(slice(0, 2), slice(0, 3))  # all of class 1, an ignored pixel, one of background
CORNER = region(slice(3, 4), slice(2, 4))  # a pixel of class 2 and one of background


def test_ious_leave_ignored_pixels_out():
    found = scores.score_image([LEFT], LABELS)
    # The intersection has 4 pixels; the union also has one of background and two of class 2.
    assert found.foreground_iou == 4 / 7
    assert found.best_iou == {1: 4 / 5, 2: 0}
    assert found.share == 6 / 16


def test_each_class_has_its_best_mask_and_the_foreground_their_union():
    found = scores.score_image([CORNER, LEFT, region(slice(0, 4), slice(0, 4))], LABELS)
    assert found.best_iou == {1: 4 / 5, 2: 1 / 3}
    assert found.foreground_iou == 6 / 14
    assert scores.score_image([CORNER, LEFT], LABELS).foreground_iou == 5 / 8


def test_images_without_masks_and_without_objects():
    assert scores.score_image([], LABELS) == (0, {1: 0, 2: 0}, 0)
    nothing = np.where(LABELS == VOID, LABELS, 0)
    assert scores.score_image([LEFT], nothing) == (None, {}, 6 / 16)


def test_the_class_under_a_mask():
    assert scores.majority_class(LEFT, LABELS) == 1
    # Two pixels of each class: the smaller class wins.
    assert scores.majority_class(region(slice(0, 4), slice(1, 4)), LABELS) == 1
    assert scores.majority_class(region(slice(1, 4), slice(1, 4)), LABELS) == 2
    assert scores.majority_class(region(slice(1, 3), slice(2, 3)), LABELS) is None


def test_agreement_of_clusters_and_classes():
    generator = np.random.default_rng(0)
    classes, clusters = generator.integers(1, 4, 50), generator.integers(1, 6, 50)
    names = [(image, 0) for image in range(51)]
    majority = {**dict(zip(names, classes.tolist(), strict=False)), names[50]: None}
    assigned = {**dict(zip(names, clusters.tolist(), strict=False)), names[50]: 1}
    found = scores.cluster_agreement(assigned, majority, class_count=3, cluster_count=5)
    expected = normalized_mutual_info_score(classes, clusters)
    assert found.agreement.nmi == pytest.approx(expected, abs=1e-12)
    right = sum(np.bincount(classes[clusters == cluster]).max() for cluster in range(1, 6))
    assert found.agreement.purity == right / 50
    assert (found.masks, found.without_class) == (50, 1)
    with pytest.raises(ValueError, match="different masks"):
        scores.cluster_agreement({}, majority, class_count=3, cluster_count=5)


def test_means_have_standard_errors():
    assert scores.mean([1.0, None, 3.0]) == {"mean": 2, "standard_error": 1, "n": 2}
    assert scores.mean([5.0]) == {"mean": 5, "standard_error": None, "n": 1}


def test_two_blocks_are_cut_apart():
    weights = np.full((10, 10), token_cut.EPSILON)
    small = np.arange(10) % 3 == 1  # a block of three nodes
    weights[np.ix_(small, small)] = weights[np.ix_(~small, ~small)] = 1
    side, source = token_cut.normalised_cut(weights)
    # The eigenvector y is orthogonal to D 1, so |y| is larger on the smaller block.
    assert (side == small).all()
    assert small[source]


def two_kinds(inside: np.ndarray) -> np.ndarray:
    """Keys of a grid whose patches are of two kinds, with a cosine similarity of 0 or nearly 1."""
    generator = np.random.default_rng(1)
    keys = np.zeros((inside.size, 8), np.float32)
    keys[np.arange(inside.size), inside.ravel().astype(int)] = generator.uniform(1, 3, inside.size)
    return keys + 0.01 * generator.random(keys.shape, np.float32)


def test_token_cut_finds_the_object_and_only_the_component_of_its_source():
    inside = np.zeros((6, 8), bool)
    inside[1:4, 2:6] = True
    found = token_cut.token_cut(two_kinds(inside), (6, 8), tau=0.2, epsilon=1e-5)
    assert (found.grid == inside).all()
    assert inside[found.source]
    assert found.proposals == 12
    apart = inside.copy()
    apart[5, 0] = True
    found = token_cut.token_cut(two_kinds(apart), (6, 8), tau=0.2, epsilon=1e-5)
    assert found.proposals == 13
    assert apart[found.source]
    assert found.grid.sum() in (1, 12)
    assert apart[found.grid].all()


def test_token_cut_has_no_mask_where_all_patches_are_alike():
    keys = np.ones((12, 4), np.float32)
    assert not token_cut.token_cut(keys, (3, 4), tau=0.2, epsilon=1e-5).grid.any()


@pytest.fixture
def voc(tmp_path, write_image):
    """A folder in VOC's layout: three photographs of train, two of val with LABELS."""
    root = tmp_path / "voc"
    lists = {"train": ["a", "b", "c"], "val": ["d", "e"]}
    for split, names in lists.items():
        for number, name in enumerate(names):
            write_image(root / "JPEGImages" / f"{name}.jpg", *LABELS.shape, seed=number)
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names))
    (root / "SegmentationClass").mkdir()
    for name in lists["val"]:
        Image.fromarray(LABELS).save(root / "SegmentationClass" / f"{name}.png")
    return root


def test_a_transformer_with_settings(tiny_backbone):
    path = tiny_backbone["weights"]
    text = f"vit_tiny_patch16_224.x={path}@features.shorter_side=32@masks.heads=[0, 1]"
    found = parse_transformer(text)
    assert found.backbone == "vit_tiny_patch16_224.x"
    assert str(found.weights) == path
    assert found.settings == {"features": {"shorter_side": 32}, "masks": {"heads": [0, 1]}}


@pytest.mark.parametrize("text", ["weights.pth", "=weights.pth", "name=", "name=missing.pth"])
def test_a_transformer_that_is_written_wrongly(text):
    with pytest.raises(InputError, match=r"be BACKBONE=WEIGHTS|no such file of weights") as raised:
        parse_transformer(text)
    assert "\n" not in str(raised.value)


def test_photographs_are_chosen_by_their_names(voc, tmp_path):
    everything = choose_photographs(voc, tmp_path, None)
    assert everything.lists == {"train": "train", "val": "val"}
    assert everything.counts == {"train": 3, "val": 2}
    listed = []
    for count in (1, 2, 3):
        found = choose_photographs(voc, tmp_path, count)
        assert found.counts == {"train": count, "val": min(count, 2)}
        dataset = {"adapter": "voc", "splits": found.lists}
        listed.append(set(list_images(dataset, voc, "train")))
        assert len(listed[-1]) == count
    assert listed[0] < listed[1] < listed[2]


def test_missing_labels_are_one_line(voc, tmp_path, tiny_backbone):
    (voc / "SegmentationClass" / "e.png").unlink()
    with pytest.raises(InputError, match=r"1 of 2 photographs of val have no label map .*e\.jpg"):
        main(["--data", str(voc), "--backbone", "x=y", "--work-dir", str(tmp_path / "work")])


def test_weights_that_do_not_fit_are_one_line(voc, tmp_path, tiny_backbone):
    backbone = f"vit_small_patch16_224={tiny_backbone['weights']}"
    with pytest.raises(InputError, match=r"tiny\.safetensors: .* features\.backbone") as raised:
        main(["--data", str(voc), "--backbone", backbone, "--work-dir", str(tmp_path / "work")])
    assert "\n" not in str(raised.value)


def plan(voc, work, tiny_backbone, *settings, taken=(), preset="quick"):
    options = json.dumps(tiny_backbone["backbone_options"])
    text = f"{tiny_backbone['backbone']}={tiny_backbone['weights']}"
    changes = [f"features.backbone_options={options}", "features.shorter_side=32", *settings]
    photographs = choose_photographs(voc, work, None)
    return photographs, write_plan(
        parse_transformer("@".join([text, *changes])),
        photographs,
        work,
        preset=preset,
        classes=["cat", "dog"],
        clusters=2,
        seeds=[0, 1, 2],
        taken=taken,
    )


def test_rows_are_what_they_are_called_whatever_the_run_is(voc, tmp_path, tiny_backbone):
    _, found = plan(voc, tmp_path, tiny_backbone, "masks.top_k=0.05")
    default = read_yaml(REPOSITORY / "config" / "default.yaml")["defaults"]["masks"]
    compared = found.config["evaluation"]["ablations"]["masks"]
    assert compared["paper"] == default  # the defaults are the paper's values
    assert compared["centred"] == {**default, "center_keys": True}
    preset = read_yaml(REPOSITORY / "config" / "presets" / "quick.yaml")["masks"]
    assert found.config["masks"] == {**default, **preset, "top_k": 0.05}
    standard = read_yaml(REPOSITORY / "config" / "presets" / "standard.yaml")["masks"]
    assert compared["standard"] == {**default, **standard}
    assert {MAIN, "lost", "dino_seg", "masks-token_cut"} <= {row.variant for row in found.rows}
    of_run = [row for row in found.rows if "preset" in names_of(row)]
    assert [row.variant for row in of_run] == [MAIN]
    _, other = plan(voc, tmp_path, tiny_backbone, taken={found.dataset: found})
    assert other.dataset != found.dataset


def test_a_wrong_setting_is_one_line(voc, tmp_path, tiny_backbone):
    with pytest.raises(InputError, match="top_q"):
        plan(voc, tmp_path, tiny_backbone, "masks.top_q=0.05")


def write_results(running, found, write_manifest):
    """Write masks, clusters and scores of two photographs of val and one of train."""
    base = running.path(f"results/{found.dataset}")
    names = {1: "JPEGImages/d.jpg", 2: "JPEGImages/e.jpg"}
    for split, ids in (("train", [3, 4]), ("val", [1, 2])):
        images = {i: (names.get(i, "JPEGImages/a.jpg"), *LABELS.shape) for i in ids}
        write_manifest(base / split / "images" / "0000.parquet", images)
        for row in found.rows:
            whole = row.key == "paper"
            drawn = np.ones(LABELS.shape, bool) if whole else LEFT
            rows = [
                {
                    "image_id": i,
                    "mask_id": 0,
                    **masks.encode(drawn)._asdict(),
                    "status": masks.WHOLE_IMAGE if whole else shards.OK,
                }
                for i in ids
            ]
            folder = base if row.variant == MAIN else base / "ablations" / row.variant
            record = provenance.record("masks", {}, program="make_masks")
            shards.write_table(folder / split / "masks" / "0000.parquet", "masks", rows, record)
            if not whole and split == "val":
                for seed in (0, 1):
                    write_clusters(folder / f"seed-{seed}" / split, names, cluster=seed + 1)
    benchmark = running.path(f"benchmarks/{found.dataset}/val/masks/0000.tsv")
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\tmax_rss\n3.0\t120.5\n")


def write_clusters(folder, names, cluster):
    rows = [{"image_id": i, "mask_id": 0, "cluster": cluster, "distance": 0.0} for i in names]
    shards.write_table(folder / "assignments" / "0000.parquet", "assignments", rows, {})
    painted = np.where(LEFT, cluster, 0).astype(np.uint8)
    rows = [label_maps.row(i, name, painted) for i, name in names.items()]
    shards.write_table(folder / "initial_label_maps" / "0000.parquet", "label_maps", rows, {})


def test_the_table_is_made_from_results(voc, tmp_path, tiny_backbone, write_manifest):
    photographs, found = plan(voc, tmp_path, tiny_backbone)
    running = workflow.Workflow(tmp_path, [found], cores=1, device="cpu")
    measurement = Measurement(found, photographs, running)
    before = measurement.values(found.rows, [0, 1, 2], clusters=True)
    assert all(row["masks"] is row["clusters"] is None for row in before["rows"])
    write_results(running, found, write_manifest)
    values = measurement.values(found.rows, [0, 1, 2], clusters=True)
    rows = {row["key"]: row for row in values["rows"]}
    of_run = next(row.key for row in found.rows if row.variant == MAIN)
    paper, standard = rows["paper"], rows[of_run]
    assert paper["masks"]["foreground_iou"]["mean"] == 6 / 14
    assert (paper["masks"]["used"], paper["masks"]["share"]["mean"]) == (0, 1)
    assert paper["clusters"] is None
    assert "0 masks of train" in paper["note"]
    assert standard["masks"]["foreground_iou"] == {"mean": 4 / 7, "standard_error": 0, "n": 2}
    assert standard["masks"]["best_iou"]["mean"] == pytest.approx(2 / 5)
    assert standard["masks"]["used"] == 1
    # One cluster is matched to class 1. IoUs: background 7 / (7 + 2 + 1), cat 4 / 5, dog 0.
    assert standard["clusters"]["miou"] == {
        "mean": pytest.approx((7 / 10 + 4 / 5 + 0) / 3),
        "sd": pytest.approx(0),
        "n": 2,
    }
    assert standard["clusters"]["purity"]["mean"] == 1
    assert values["costs"]["make_masks"] == {"seconds_per_image": 1.5, "peak_mb": 120.5, "jobs": 1}
    text = table(
        {
            "machine": {"cores": 2, "gpu": None, "torch": "2", "date": "today"},
            "images": photographs.counts,
            "clusters": 2,
            "seeds": [0, 1, 2],
            "transformers": [values],
        }
    )
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines}
    shown = [cell.strip() for cell in cells[standard["title"]]]
    assert shown == [
        *("57.1 ± 0.0", "40.0 ± 23.1", "37.5", "100.0", "50.0 ± 0.0", "100.0 ± 0.0"),
        *("100.0 ± 0.0", "1.5"),
    ]
    assert [cell.strip() for cell in cells[paper["title"]]][4:7] == ["–", "–", "–"]
    assert cells["make_masks"][0].strip() == "1.5"


def test_costs_count_the_images_of_every_pass(tmp_path):
    counts = {"train": 10, "val": 4}
    times = {
        "train/features/0000.tsv": 20,
        "train/features/0001.tsv": 20,
        "val/features/0000.tsv": 16,
        "seed-0/clusters/assignments.tsv": 3,
        "seed-1/clusters/assignments.tsv": 5,
        "ablations/lost/val/masks/0000.tsv": 99,
    }
    for name, seconds in times.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"s\tmax_rss\n{seconds}\t{'-' if seconds == 3 else seconds}\n")
    assert costs.costs(tmp_path, tmp_path / "results", counts) == {
        "cluster_masks": {"seconds_per_image": 8 / 20, "peak_mb": 5, "jobs": 2},
        "extract_features": {"seconds_per_image": 4, "peak_mb": 20, "jobs": 3},
    }
