import csv
import json
from pathlib import Path

import pytest

from workflow_scripts import report_ablations, tabulate_ablation
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.paper import comparison
from workflow_scripts.maskdistill.repository import REPOSITORY

PAPER = REPOSITORY / "resources" / "paper_tables.json"
SETTINGS = {
    "dataset": {"adapter": "voc"},
    "features": {"backbone": "vit_tiny", "weights": None},
    "mask_rcnn": {"weights": None},
    "segmentation": {"weights": None},
    "clustering": {"clusters": 2},
}


def metrics(miou, method="hungarian", steps=("mask_rcnn", "segmentation")):
    step = {
        **dict.fromkeys(("miou", "pixel_accuracy", "boundary_iou", "nmi", "ari", "purity"), miou),
        "matching": {"method": method, "clusters": {}},
        "per_class": {name: {"iou": miou} for name in ("background", "cat")},
    }
    return {
        "split": "val",
        "images": 3,
        "clusters": 2,
        "class_names": ["background", "cat"],
        "steps": dict.fromkeys(steps, step),
    }


def instances(ap, method):
    triple = {"ap": ap, "ap50": ap, "ap75": ap}
    step = {**dict.fromkeys(comparison.AP_SETTINGS, triple), "proposals_per_mask": 5.0}
    found = {**metrics(0.1), "steps": {"initial_masks": {**step, "matching": method}}}
    found["matched_on"] = {key: found[key] for key in ("split", "images")}
    return found | {"split": "instances", "images": 5, "objects": 8}


@pytest.fixture
def write(tmp_path):
    def write_all(name, contents):
        paths = []
        for seed, content in enumerate(contents):
            paths.append(str(tmp_path / f"{name}-{seed}.json"))
            Path(paths[-1]).write_text(json.dumps(content))
        return paths

    return write_all


@pytest.fixture
def call(tmp_path):
    def run(item, *options, seeds=(0, 1)):
        arguments = ["--item", item, "--settings", json.dumps(SETTINGS), *options]
        arguments += ["--seeds", *map(str, seeds), "--paper-tables", str(PAPER)]
        arguments += ["--json", f"{tmp_path}/{item}.json", "--csv", f"{tmp_path}/{item}.csv"]
        assert tabulate_ablation.main(arguments) == 0
        return json.loads((tmp_path / f"{item}.json").read_text())

    return run


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def sweep_of_clusters(write, tmp_path):
    options = ["--metrics", "main", *write("main", [metrics(0.4), metrics(0.5)])]
    for clusters, method in ((2, "hungarian"), (1, "hungarian"), (9, "majority")):
        paths = write(f"c{clusters}", [instances(0.1 * clusters, method)] * 2)
        options += ["--instances", f"clusters-{clusters}", *paths]
    for clusters in (1, 2, 9):
        options += ["--sweep", str(clusters), f"clusters-{clusters}"]
    return [*options, "--svg", f"{tmp_path}/figure_3.svg"]


def test_a_table_holds_mean_sd_and_n_beside_the_papers(call, write, tmp_path):
    steps = ("initial_masks", "mask_rcnn", "segmentation")
    runs = [metrics(0.4, steps=steps), metrics(0.5, steps=steps)]
    pixels = write("pixels", [metrics(0.3), metrics(0.3)])
    options = ["--metrics", "main", *write("main", runs), "--metrics", "all_pixels", *pixels]
    found = call("table_1", *options)
    assert found["seeds"] == [0, 1]
    assert any("backbone" in phrase for phrase in found["obstacles"])
    rows = read_csv(tmp_path / "table_1.csv")
    assert [row["row"] for row in rows] == [
        "initial_masks",
        "mask_rcnn",
        "segmentation_without_hard_pixels",
        "segmentation",
    ]
    assert float(rows[0]["mean"]) == pytest.approx(0.45)
    assert float(rows[0]["sd"]) == pytest.approx(0.1 / 2**0.5)
    assert (rows[0]["n"], rows[2]["matching"]) == ("2", "hungarian")
    assert {row["comparable"] for row in rows} == {"no"}
    assert {(row["split"], row["images"], row["matched_on"]) for row in rows} == {
        ("val", "3", "val")
    }
    assert float(rows[2]["paper"]) == pytest.approx(0.455)
    assert float(rows[2]["difference"]) == pytest.approx(-0.155)


def test_overclustering_has_a_table_of_its_own(call, write, tmp_path):
    options = sweep_of_clusters(write, tmp_path)
    apart = tmp_path / "apart.csv"
    call("figure_3", *options, "--overclustering-csv", str(apart))
    assert {row["row"] for row in read_csv(tmp_path / "figure_3.csv")} == {"1", "2"}
    assert {row["matching"] for row in read_csv(tmp_path / "figure_3.csv")} == {"hungarian"}
    assert {(row["row"], row["matching"]) for row in read_csv(apart)} == {("9", "majority")}
    measured = {(row["split"], row["images"], row["matched_on"]) for row in read_csv(apart)}
    assert measured == {("instances", "5", "val")}
    assert (tmp_path / "figure_3.svg").read_text().startswith("<?xml")
    with pytest.raises(InputError, match="--overclustering-csv"):
        call("figure_3", *options)


def test_the_report_shows_items_and_figures(call, write, tmp_path):
    options = sweep_of_clusters(write, tmp_path)
    call("figure_3", *options, "--overclustering-csv", str(tmp_path / "apart.csv"))
    output = tmp_path / "report.html"
    arguments = ["--dataset", "<mine>", "--items", str(tmp_path / "figure_3.json")]
    arguments += ["--figures", str(tmp_path / "figure_3.svg"), "--output", str(output)]
    assert report_ablations.main(arguments) == 0
    text = output.read_text()
    assert "&lt;mine&gt;: ablations" in text
    assert text.count("<svg") == 3  # the figure and its two charts
    assert "<?xml" not in text
    assert "overclustering, majority matching" in text
    assert "another backbone" in text
    assert "10.0 ± 0.0 (2)" in text
    # This text is in a paragraph of the page and in the figure.
    assert text.count("5 images of “instances”, matched on 3 of “val”") == 2 * 2


def test_every_variant_needs_every_seed(call, write):
    options = ["--metrics", "main", *write("main", [metrics(0.4)])]
    with pytest.raises(InputError, match="a variant has 1 files, but there are 2 seeds"):
        call("table_2", *options)


def test_the_run_itself_must_be_given(call, write):
    with pytest.raises(InputError, match="--metrics main"):
        call("table_1", "--metrics", "all_pixels", *write("p", [metrics(0.3)] * 2))


def test_a_figure_needs_its_sweep(call, write, tmp_path):
    options = ["--metrics", "main", *write("main", [metrics(0.4)] * 2)]
    with pytest.raises(InputError, match="--svg and --sweep"):
        call("figure_5", *options, "--svg", str(tmp_path / "x.svg"))
