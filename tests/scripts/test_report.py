import base64
import html.parser
import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from workflow_scripts import check_health, evaluate, report, summarize
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import step_title
from workflow_scripts.maskdistill.files import label_maps, masks, provenance, shards
from workflow_scripts.maskdistill.paper.comparison import AP_SETTINGS
from workflow_scripts.maskdistill.repository import REPOSITORY

CLASSES = ("cat", "dog")
EVIL = "JPEGImages/<script>alert(1)&amp;.jpg"
NAMES = ("JPEGImages/a.jpg", EVIL, "JPEGImages/c.jpg")
STEPS = ("initial_masks", "mask_rcnn", "segmentation", "segmentation_crf")
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(html.parser.HTMLParser):
    """Collects elements, and checks that they are nested and load nothing from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.elements = Counter()
        self.images = []
        self.ids = set()
        self.anchors = []
        self.text = ""
        self._open = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements[tag] += 1
        self.ids.add(attributes.get("id"))
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            if value := attributes.get(name):
                assert value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
        assert "url(" not in attributes.get("style", "")
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "img":
            self.images.append((attributes["alt"], attributes["src"]))
        if tag == "a":
            self.anchors.append(attributes["href"])
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path):
    """A finished run on three images of two classes; gives a function that writes its report."""
    settings = {
        "dataset": {
            "adapter": "voc",
            "ground_truth": True,
            "classes": list(CLASSES),
            "splits": {"val": "val"},
        },
        "seeds": [0, 1],
        "features": {"weights": "https://example.org/weights.pth", "heads": None},
        "clustering": {"clusters": 2, "kmeans": {"iterations": 20}},
        "curation": {"names": ["<i>striped</i> cat", "cluster_002"], "classes": None},
        "report": {"examples": 2, "crops": 2},
    }
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "SegmentationClass").mkdir()
    rng = np.random.default_rng(0)
    manifest, mask_rows, assignments, maps = [], [], [], []
    for i, name in enumerate(NAMES):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / name)
        labels = np.zeros((40, 60), np.uint8)
        labels[5:25, 10:40] = 1 + i % 2
        labels[5, 10:40] = 255
        png = (tmp_path / "SegmentationClass" / name.split("/")[1]).with_suffix(".png")
        Image.fromarray(labels).save(png)
        size = {"height": 40, "width": 60}
        manifest.append({"image_id": i, "file_name": name, **size, "status": "ok"})
        encoded = masks.encode((labels > 0) & (labels < 255))._asdict()
        measured = {"share": encoded["area"] / 2400, "quality": 0.5, "status": "ok"}
        mask_rows.append({"image_id": i, "mask_id": 0, **encoded, **measured})
        assignments.append({"image_id": i, "mask_id": 0, "cluster": 2 - i % 2, "distance": 3.0 - i})
        # Cluster 1 shows class 2, and cluster 2 shows class 1.
        maps.append(label_maps.row(i, name, np.array([0, 2, 1] + [0] * 253, np.uint8)[labels]))
    manifest.append({"image_id": 9, "file_name": "<b>bad.jpg", "status": "empty file (0 bytes)"})
    made_by = provenance.record("masks", {}, weights={"sha256": "abc123"})
    for stage, rows in (
        ("images", manifest),
        ("masks", mask_rows),
        ("assignments", assignments),
        ("label_maps", maps),
    ):
        shards.write_table(tmp_path / f"{stage}.parquet", stage, rows, made_by)
    candidate = {"image_id": 0, "candidate_id": 0, "cluster": 1, "score": 0.9}
    shards.write_table(tmp_path / "candidates.parquet", "candidates", [candidate], made_by)
    (tmp_path / "history.csv").write_text("step,loss,loss_mask\n1,2.0,1.5\n2,1.0,0.5\n3,0.5,\n")
    benchmark = tmp_path / "benchmarks" / "seed-0" / "mask_rcnn" / "model.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\th:m:s\tmax_rss\n3725.0\t1:02:05\t812.3\n")
    papers = REPOSITORY / "resources" / "paper_tables.json"

    def call(*, truth, steps=STEPS, changes=(), edit=None):
        common = [f"--root={tmp_path}", "--split=val"]
        for step in steps:
            common += ["--step", step, str(tmp_path / "label_maps.parquet")]
        options = list(common)
        if truth:
            small = {k: settings[k] for k in ("dataset", "clustering")}
            for seed in (0, 1):
                output = tmp_path / f"metrics-{seed}.json"
                evaluate.main(
                    [
                        *common,
                        f"--images={tmp_path / 'images.parquet'}",
                        *("--max-rejected", "0", "10"),
                        f"--output={output}",
                        f"--per-class-csv={tmp_path / 'p.csv'}",
                        f"--per-class-parquet={tmp_path / 'p.parquet'}",
                        f"--settings={json.dumps(small)}",
                    ]
                )
                options += ["--metrics", str(seed), str(output)]
            metrics = [str(tmp_path / f"metrics-{seed}.json") for seed in (0, 1)]
            summary = f"--output={tmp_path / 'summary.json'}"
            summarize.main(["--settings={}", summary, "--metrics", *metrics])
            if edit:
                content = json.loads((tmp_path / "summary.json").read_text())
                edit(content)
                (tmp_path / "summary.json").write_text(json.dumps(content))
            options += [f"--summary={tmp_path / 'summary.json'}", f"--paper-tables={papers}"]
        shown = [
            *("--images", "val", str(tmp_path / "images.parquet")),
            *("--masks", "val", str(tmp_path / "masks.parquet")),
            *("--candidates", "val", str(tmp_path / "candidates.parquet")),
            f"--assignments={tmp_path / 'assignments.parquet'}",
            *("--history", "segmentation_round_1", str(tmp_path / "history.csv")),
        ]
        checked = {
            "clustering": settings["clustering"],
            "confidence": {"threshold": 0.95},
            "mask_rcnn": {"enabled": True, "weights": None},
            "segmentation": {"model": "deeplab", "weights": "r50.pth"},
        }
        health = tmp_path / "health.json"
        check_health.main([*shown, f"--settings={json.dumps(checked)}", f"--output={health}"])
        options += [*shown, f"--health={health}"]
        options += [f"--benchmarks={tmp_path / 'benchmarks'}", "--git-revision=<i>1234567"]
        output = tmp_path / "report.html"
        described = json.dumps(
            settings | {"dataset": settings["dataset"] | {"ground_truth": truth}}
        )
        options += ["--dataset=tiny", f"--settings={described}", f"--output={output}", *changes]
        assert report.main(options) == 0
        return output.read_text(encoding="utf-8")

    call.root = tmp_path
    return call


def picture(page, alt):
    (uri,) = [uri for text, uri in page.images if text == alt]
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


def test_report_with_ground_truth(run):
    text = run(truth=True)
    page = Page(text)
    assert {"scores", "examples", "clusters", "training", "images", "times"} <= page.ids
    assert "nothing was learned from them" in " ".join(page.text.split())
    assert {anchor.removeprefix("#") for anchor in page.anchors} <= page.ids
    # Two examples, each with the image, the ground truth and all steps; and three crops of masks.
    assert len(page.images) == 2 * (2 + len(STEPS)) + 3
    # The three last charts are distributions in the section about health.
    assert page.elements["svg"] == len(STEPS) + 1 + 3
    for shown in ("Segmentation + CRF", "100.0 ± 0.0", "48.9", "Not comparable with this run"):
        assert shown in page.text
    for shown in ("empty file (0 bytes)", "1 h 02 min", "812 MB", "train_mask_rcnn", "abc123"):
        assert shown in page.text
    assert "images without any 2" in page.text
    assert "kmeans.iterations" in page.text


def test_the_report_begins_with_the_health_of_the_run(run):
    page = Page(run(truth=True))
    text = " ".join(page.text.split())
    health = text[text.index("Health of the run") : text.index("Label maps are scored on")]
    for shown in (
        "3 images could be read, 1 could not.",
        "the first is <b>bad.jpg (empty file (0 bytes)).",
        "3 masks in 3 images, 0 without any; the median mask covers 24% of its image",
        "2 clusters have fewer than 5 masks (1, 2);",
        "Most images have no candidate above confidence.threshold (0.95)",
        "mask_rcnn.weights is null, so it starts from random numbers",
        "The mean loss is 2 in the first tenth and 0.5 in the last tenth.",
    ):
        assert shown in health


def test_prediction_and_ground_truth_look_alike_when_they_agree(run):
    page = Page(run(truth=True))
    name = NAMES[2]
    truth = picture(page, f"Ground truth of {name}")
    np.testing.assert_allclose(picture(page, f"Segmentation of {name}"), truth, atol=8)
    assert np.abs(picture(page, f"Image of {name}") - truth).mean() > 10


def test_report_without_ground_truth_reads_no_label(run):
    for path in (run.root / "SegmentationClass").iterdir():
        path.unlink()
    page = Page(run(truth=False))
    assert "scores" not in page.ids
    assert {"examples", "clusters", "training", "images", "times"} <= page.ids
    assert "Segmentation round 1 3 steps" in " ".join(page.text.split())
    assert len(page.images) == 2 * (1 + len(STEPS)) + 3
    assert "mIoU" not in page.text
    assert "<i>striped</i> cat" in page.text
    assert "Ground truth" not in page.text


def test_nothing_of_the_input_becomes_markup(run):
    text = run(truth=True)
    page = Page(text)
    scripts = re.findall(r"<script[^>]*>", text)
    assert scripts == ['<script type="application/json" id="provenance">']  # browsers do not run it
    assert page.elements["b"] == 2 + 4  # headings of two clusters, four marks of paper numbers
    assert EVIL in page.text
    assert "<b>bad.jpg" in page.text
    assert "<i>1234567" in page.text


def test_nothing_is_loaded_from_elsewhere(run):
    text = run(truth=True)
    Page(text)  # this checks all attributes that load something
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style
    outside_of_text = re.sub(r">[^<]*<", "><", text)
    assert "http:" not in outside_of_text
    assert "https:" not in outside_of_text


def test_crops_come_nearest_to_the_centroid_first(run):
    page = Page(run(truth=False))
    crops = [alt for alt, _ in page.images if alt.startswith("mask in")]
    # Cluster 1 has the mask of image 1. Cluster 2 has those of images 0 and 2, and 2 is nearer.
    assert crops == [f"mask in {NAMES[i]}" for i in (1, 2, 0)]


def test_a_run_of_fewer_steps(run):
    page = Page(run(truth=True, steps=STEPS[:1]))
    assert "Initial masks" in page.text
    assert "CRF" not in page.text.split("Parameters")[0].split("†")[0]


def test_two_reports_differ_in_their_date_only(run):
    first, second = (re.sub(r"Report of [^<]* UTC", "", run(truth=True)) for _ in range(2))
    assert first == second


def test_metrics_without_summary_are_an_error(run):
    with pytest.raises(InputError, match="--summary"):
        run(truth=False, changes=["--summary", "x.json"])


def test_an_unknown_split_is_an_error(run):
    with pytest.raises(InputError, match="split 'test'"):
        run(truth=False, changes=["--split=test"])


def test_a_history_without_loss_is_an_error(run):
    (run.root / "history.csv").write_text("epoch,accuracy\n1,2\n")
    with pytest.raises(InputError, match=r"history\.csv"):
        run(truth=False)


def test_an_empty_history_leaves_the_figure_out(run):
    (run.root / "history.csv").write_text("step,loss\n")
    assert "training" not in Page(run(truth=False)).ids


def mean(value):
    return {"mean": value, "sd": 0.01, "n": 5}


def with_objects(objects):
    """A function that adds scores of objects, calibration and a linear probe to a summary."""

    def edit(summary):
        triple = {"ap50": mean(0.321), "ap": mean(0.123), "ap75": mean(0.045)}
        settings = [f"class_{a}_{b}" for a in ("agnostic", "aware") for b in ("multi", "single")]
        step = {
            "matching": ["hungarian"],
            "masks_per_image": mean(2.25),
            "coverage": mean(0.77),
            "best_object_iou": {"mean": mean(0.5), "median": mean(0.6)},
            **dict.fromkeys(settings, triple),
        }
        bins = [
            {"low": mean(i / 10), "high": mean((i + 1) / 10), "count": mean(count), **means}
            for i, count, means in (
                (0, 0, dict.fromkeys(("score", "iou", "hit_rate"), mean(None))),
                (3, 4, dict.fromkeys(("score", "iou", "hit_rate"), mean(0.35))),
                (8, 6, dict.fromkeys(("score", "iou", "hit_rate"), mean(0.85))),
            )
        ]
        calibration = {"rank_correlation": mean(0.62), "bins": bins}
        summary["instances"] = {
            **objects,
            "steps": {"initial_masks": step, "mask_rcnn": {**step, "calibration": calibration}},
        }
        probe = {**summary["steps"]["segmentation"], "matching": ["supervised"]}
        summary["linear_probe"] = {"steps": {"linear_probe": probe}}

    return edit


ON_VAL = {"split": "val", "images": 3, "objects": 4, "matched_on": {"split": "val", "images": 3}}


def test_objects_calibration_and_linear_probe_are_shown(run):
    page = Page(run(truth=True, edit=with_objects(ON_VAL)))
    assert page.elements["svg"] == len(STEPS) + 2 + 3
    text = " ".join(page.text.split())
    for shown in ("32.1 ± 1.0", "12.3 ± 1.0", "24.3", "+7.8", "77.0 ± 1.0", "2.25"):
        assert shown in text
    for shown in ("rank correlation of score and mask IoU 0.62", "0.8 – 0.9", "58.7", "+41.3"):
        assert shown in text
    assert "0.0 – 0.1" not in text
    # The linear probe learned from labels, so it is in no table with clusters.
    before, _, probe = text.partition("IoU by class: linear probe, with labels")
    for table, columns in ((before.rpartition("IoU by class")[2], STEPS), (probe, ())):
        head = table[: table.index("background")]
        assert [name for name in STEPS if step_title(name) in head] == list(columns)
    assert "nothing but the linear probe learned from them" in text
    # The paper's Table 3 has no class-agnostic mask AP for single objects.
    heads = {title: text.partition(title)[2][:40] for title in AP_SETTINGS.values()}
    assert [title for title, head in heads.items() if "Paper" not in head] == [
        "Class-agnostic, single object"
    ]
    assert "labels it has learned" not in text


def test_a_report_without_scores_of_objects_says_so(run):
    sentence = "Mask AP, coverage and calibration were not measured, because the labels"
    text = " ".join(Page(run(truth=True)).text.split())
    assert text.count(sentence) == 1
    assert "Masks and objects" not in text
    assert sentence not in Page(run(truth=True, edit=with_objects(ON_VAL))).text
    assert sentence not in Page(run(truth=False)).text


def between(text, start, end):
    return text.partition(start)[2].partition(end)[0]


def test_every_score_says_on_which_images_and_by_which_matching(run):
    objects = {**ON_VAL, "split": "instances", "images": 2913, "objects": 6934}
    text = " ".join(Page(run(truth=True, edit=with_objects(objects))).text.split())
    head = between(text, "Label maps are", "Intersection over union")
    assert head.startswith(" scored on 3 images of the split “val”, and clusters are matched")
    assert "Mask AP is measured on other images: 2,913 images of the split “instances”." in head
    on_objects = "On 2,913 images of the split “instances” with 6,934 objects."
    ap = between(text, "Mask AP On", "Class-agnostic, multi-object")
    assert f"On{ap}".startswith(f"{on_objects} Class-aware scores use the matching")
    assert "fixed on 3 images of the split “val”, not on these" in ap
    for title in ("Masks and objects", "Are confident masks better?"):
        assert f"{title} {on_objects} Classes are ignored." in text
    of_labels = "On 3 images of the split “val”"
    assert f"IoU by class {of_labels}, by the matching on the same images." in text
    assert f"linear probe, with labels {of_labels}; there is nothing to match." in text
    assert f"Confusion matrix: Segmentation + CRF {of_labels}." in text
    assert "Scored on 3 images of the split “val”. This is not an unsupervised result." in text
    stands = between(text, "Which class each cluster is matched with", "Cluster")
    assert stands == " By the matching on 3 images of the split “val”; seed 0. "
    assert "Hungarian matching on 3 images of the split “val”." in text


def test_mask_ap_on_the_images_of_everything_else(run):
    text = " ".join(Page(run(truth=True, edit=with_objects(ON_VAL))).text.split())
    assert "measured on other images" not in text
    ap = between(text, "Mask AP On", "Class-agnostic, multi-object")
    assert ap.startswith(" 3 images of the split “val” with 4 objects.")
    assert "fixed on the same images" in ap


def test_the_model_and_the_images_of_the_linear_probe_are_named(run):
    def edit(summary):
        steps = summary["steps"]
        probe = {**steps["segmentation"], "matching": ["supervised"]}
        summary["linear_probe"] = {"steps": {"linear_probe": probe}}
        summary["split"] = "train"

    page = Page(run(truth=True, steps=(*STEPS, "segmentation_round_1"), edit=edit))
    text = " ".join(page.text.split())
    assert "features of the segmentation model of each CRF round" in text
    assert "scored on the images whose labels it has learned from" in text


@pytest.mark.parametrize(("counts", "shown"), [([6, 6], False), ([6, 5], True)])
def test_means_over_runs_that_were_merged_differently_are_marked(run, counts, shown):
    page = Page(run(truth=True, edit=lambda summary: summary.update(clusters=counts)))
    text = " ".join(page.text.split())
    assert ("different numbers of pseudo-classes (6, 5)" in text) is shown


def test_overclustering_is_labelled_and_stands_beside_no_number_of_the_paper(run):
    def edit(summary):
        for step in summary["steps"].values():
            step["matching"] = ["majority"]

    text = Page(run(truth=True, edit=edit)).text
    assert "Overclustering: majority matching" in text
    assert "IoU by class – overclustering, majority matching" in text
    assert "; overclustering, majority matching" in text  # next to the mIoU at the top of the page
    assert "one to one" not in text
    assert "48.9" not in text
