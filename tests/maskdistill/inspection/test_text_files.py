import json

import pytest

from tests.maskdistill.inspection import describe, row_of
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.gallery.site import PAGE_FILES
from workflow_scripts.maskdistill.pictures import charts, contact_sheets
from workflow_scripts.maskdistill.repository import REPOSITORY

TEMPLATES = (REPOSITORY / PAGE_FILES[0]).parent


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
    with pytest.raises(InputError, match="damaged, not the data of a gallery"):
        describe(folder)


def test_scripts_of_a_gallery(tmp_path):
    image = {"layers": {"masks": "data:"}, "candidates": [{}, {}]}
    (tmp_path / "6.js").write_text(f"GALLERY.image({json.dumps(['val/0001/6', image])});\n")
    text = describe(tmp_path / "6.js")
    assert "image val/0001/6 of a gallery: its picture and 3 overlays" in text
    for name, what in (("gallery.js", "program"), ("gallery.css", "style sheet")):
        assert f"{what} of a gallery" in describe(TEMPLATES / name)


def test_pages(tmp_path):
    (tmp_path / "report.html").write_text("<title>demo – MaskDistill</title></html>")
    assert "page for a browser, " in describe(tmp_path / "report.html")
    assert "Gallery – MaskDistill" in describe(TEMPLATES / "index.html")


def test_names_of_clusters(tmp_path):
    text = contact_sheets.template(3, "0123456789abcdef", [5, 1])
    (tmp_path / "names.yaml").write_text(text.replace("cluster_002", "bird"))
    text = describe(tmp_path / "names.yaml")
    assert "names of clusters, of 1 seed\n" in text
    assert "seed 3" in text
    assert row_of(text, "2") == ["bird"]


def test_names_and_colours_of_labels(tmp_path):
    (tmp_path / "labelmap.txt").write_text(label_maps.legend(["cat", "a: b", "dog"]))
    assert "names and colours of labels, for CVAT: 4" in describe(tmp_path / "labelmap.txt")
    (tmp_path / "val.txt").write_text("a\nsub/b c\n")
    assert "list of 2 images" in describe(tmp_path / "val.txt")


def test_figures(tmp_path):
    chart = charts.line_chart({"a": charts.Series([1, 2], [3, 4])}, x_label="x", y_label="y")
    (tmp_path / "figure_3.svg").write_text(charts.stacked([("AP of masks", ["a"], chart)]))
    assert "figure: AP of masks" in describe(tmp_path / "figure_3.svg")


def test_a_log_shows_its_end(tmp_path):
    path = tmp_path / "model.log"
    bar = "".join(f"\rtrain: {i} of 3" for i in range(4))
    path.write_bytes(b"first\n" + b"again\n" * 20 + bar.encode() + b"\n\nerror: \xff \x1b[31m\n")
    text = describe(path)
    assert "log of a job: 23 lines" in text
    assert text.splitlines()[-2:] == ["    train: 3 of 3", "    error: \ufffd \\x1b[31m"]
    assert "first" not in text
    path.write_text("")
    assert "log of a job: 0 lines" in describe(path)
    path.write_bytes(bytes(10))
    with pytest.raises(InputError, match="damaged, zeros within its text"):
        describe(path)


def test_losses_for_tensorboard(tmp_path):
    (tmp_path / "events.out.tfevents.1700000000.host.7.0").write_bytes(b"\x18\0\0")
    assert "tensorboard --logdir" in describe(tmp_path)
