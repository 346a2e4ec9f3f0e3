import json

from workflow_scripts import summarize

STEP = {
    **dict.fromkeys(("miou", "pixel_accuracy", "boundary_iou", "nmi", "ari", "purity"), 0.5),
    "matching": {"method": "hungarian", "clusters": {}},
    "per_class": {"background": {"iou": 0.5}},
}
RUN = {"split": "val", "images": 3, "class_names": ["background"], "clusters": 6}


def test_metrics_instances_and_linear_probes_of_all_seeds(tmp_path, capsys):
    objects = {"objects": 7, "matched_on": {"split": "val", "images": 3}}
    contents = {
        "metrics": {**RUN, "steps": {"segmentation": STEP}},
        "instances": {**RUN, **objects, "steps": {"mask_rcnn": {"coverage": 0.25}}},
        "linear-probes": {**RUN, "steps": {"linear_probe": STEP}},
    }
    options = ["--settings={}", f"--output={tmp_path / 'summary.json'}"]
    for name, content in contents.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        options += [f"--{name}", str(path), str(path)]
    assert summarize.main(options) == 0
    written = json.loads((tmp_path / "summary.json").read_text())
    assert next(iter(written)) == "provenance"
    half = {"mean": 0.5, "sd": 0.0, "n": 2}
    assert written["steps"]["segmentation"]["miou"] == half
    assert written["linear_probe"]["steps"]["linear_probe"]["purity"] == half
    assert written["instances"]["steps"]["mask_rcnn"]["coverage"]["mean"] == 0.25
    assert "50.0 ± 0.0" in capsys.readouterr().out
