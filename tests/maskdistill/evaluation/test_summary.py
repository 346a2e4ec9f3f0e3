import json

import numpy as np
import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation import summary


def run(miou, cat, steps=("initial_masks", "segmentation"), method="hungarian"):
    """What evaluate writes for one seed, as far as it is read here."""
    step = {
        "miou": miou,
        **dict.fromkeys(("pixel_accuracy", "boundary_iou", "nmi", "ari", "purity"), miou / 2),
        "matching": {"method": method, "clusters": {}},
        "per_class": {"background": {"iou": 0.5}, "cat": {"iou": cat}},
    }
    return {
        "split": "val",
        "images": 3,
        "class_names": ["background", "cat"],
        "clusters": 6,
        "steps": dict.fromkeys(steps, step),
    }


def write(folder, *contents):
    paths = [folder / f"{seed}.json" for seed in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_mean_and_sd_over_seeds():
    values = [0.30, 0.34, 0.41]
    found = summary.summarize([run(value, value) for value in values])
    step = found["steps"]["segmentation"]
    expected = {"mean": np.mean(values), "sd": np.std(values, ddof=1), "n": 3}
    assert step["miou"] == pytest.approx(expected)
    assert step["per_class"]["cat"] == pytest.approx(expected)
    assert step["per_class"]["background"]["sd"] == 0
    printed = summary.table(found)
    assert "35.0 ± 5.6" in printed
    title = "3 images of 'val', on which clusters were also matched with classes\n"
    assert printed.startswith(title)
    assert [line.split()[0] for line in printed.splitlines()[3:]] == list(found["steps"])


def test_one_seed_has_no_sd():
    found = summary.summarize([run(0.25, None)])
    assert found["steps"]["segmentation"]["miou"] == {"mean": 0.25, "sd": None, "n": 1}
    assert found["steps"]["segmentation"]["per_class"]["cat"]["mean"] is None
    assert "±" not in summary.table(found)


def test_a_class_that_one_seed_leaves_undefined_counts_the_others():
    found = summary.summarize([run(0.2, None), run(0.4, 0.6)])
    assert found["steps"]["initial_masks"]["per_class"]["cat"] == {
        "mean": 0.6,
        "sd": None,
        "n": 1,
    }


def test_seeds_with_other_steps_or_classes_are_an_error(tmp_path):
    with pytest.raises(InputError, match="steps"):
        summary.read_runs(write(tmp_path, run(0.2, 0.2), run(0.2, 0.2, steps=["initial_masks"])))
    other = run(0.2, 0.2) | {"class_names": ["background", "dog"]}
    with pytest.raises(InputError, match="class_names"):
        summary.read_runs(write(tmp_path, run(0.2, 0.2), other))


def instances(*, changed=0):
    contents = []
    for seed, ap in enumerate((0.1, 0.3)):
        bins = [{"count": 4 + seed, "iou": None if seed else 0.5}]
        step = {"matching": "hungarian", "multi": {"ap": ap}, "calibration": {"bins": bins}}
        found = {**run(0, 0), "split": "instances", "objects": 7, "steps": {"mask_rcnn": step}}
        found["matched_on"] = {"split": "val", "images": 2 + changed * seed}
        contents.append(found)
    return contents


def test_numbers_on_instances_are_summed_up_wherever_they_stand():
    found = summary.summarize_instances(instances())
    step = found["steps"]["mask_rcnn"]
    assert (found["split"], found["images"], found["objects"]) == ("instances", 3, 7)
    assert found["matched_on"] == {"split": "val", "images": 2}
    assert step["matching"] == ["hungarian"]
    assert step["multi"]["ap"] == pytest.approx({"mean": 0.2, "sd": 0.2 / np.sqrt(2), "n": 2})
    (row,) = step["calibration"]["bins"]
    assert row["count"]["mean"] == 4.5
    assert row["iou"] == {"mean": 0.5, "sd": None, "n": 1}


def test_seeds_that_were_matched_on_different_images_are_an_error(tmp_path):
    with pytest.raises(InputError, match="matched_on"):
        summary.read_runs(write(tmp_path, *instances(changed=1)))


def test_runs_whose_clusters_were_merged_differently_are_marked():
    alike = summary.summarize([run(0.2, 0.2), run(0.3, 0.3)])
    assert alike["clusters"] == [6, 6]
    assert "CAUTION" not in summary.table(alike)
    found = summary.summarize([run(0.2, 0.2), run(0.3, 0.3) | {"clusters": 5}])
    assert found["clusters"] == [6, 5]
    assert "different numbers of pseudo-classes (6, 5)" in summary.table(found)
