import re
import shutil

import numpy as np
import pytest

from tests.maskdistill.inspection import describe, row_of
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.inspection import any_file, terminal


def test_what_belongs_together_in_a_tree(tmp_path):
    for folder in ("label_maps", "predictions"):
        (tmp_path / folder / "JPEGImages").mkdir(parents=True)
        for name in ("a", "b"):
            path = tmp_path / folder / "JPEGImages" / f"{name}.png"
            path.write_bytes(label_maps.encode_png(np.zeros((2, 2), np.uint8)))
        (tmp_path / folder / "labelmap.txt").write_text(label_maps.legend(["cat"]))
    labels = tmp_path / "exports" / "yolo" / "labels" / "val"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    (labels / "b.txt").write_text("")  # nothing was found in this image
    groups = [
        [str(file.relative_to(tmp_path)) for file in group]
        for group in any_file.expand(str(tmp_path))
    ]
    assert groups == [
        ["exports/yolo/labels/val/a.txt", "exports/yolo/labels/val/b.txt"],
        ["label_maps/JPEGImages/a.png", "label_maps/JPEGImages/b.png"],
        ["label_maps/labelmap.txt"],
        ["predictions/JPEGImages/a.png", "predictions/JPEGImages/b.png"],
        ["predictions/labelmap.txt"],
    ]
    lines, faults = any_file.overview(any_file.expand(str(tmp_path)))
    assert faults == []
    assert "YOLO labels of 2 images: 1 polygons" in "\n".join(lines)


FOREIGN = {
    "a.js": b"alert(1)",
    "a.md": b"# text",
    "a.txt": b"one\ttwo\n",
    "a.css": b"p { margin: 0 }\n",
    "a.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>\n",
    "a.xml": b"<View/>\n",
    "a.yaml": b"a: 1\n",
    "a.json": b'{"a": 1}',
    "list.json": b"[1, 2]",
    "a.csv": b"a,b\n1,2\n",
    "a.jsonl": b'{"a": 1}\n',
    "a.tsv": b"a\tb\n1\t2\n",
    "a.html": b"<html></html>",
    "a.docx": b"x",
}
DAMAGED = {
    "a.parquet": b"PAR1 but not really",
    "a.json": b'{"a": ',
    "binary.json": b"\xff\xfe\x00",
    "other.json": b'{"steps": {}, "class_names": []}',
    "a.csv": b"step,loss\n1,abc\n",
    "cut.csv": b"step,matching,class,iou,clusters\nmask_rcnn,hungarian,cat,0.",
    "row.csv": b"step,loss\n1\n",
    "zeros.csv": b"step,loss\n\0\0\0\0\n",
    "a.jsonl": b'{"step": 1, "lo',
    "cut.jsonl": b'{"step": 1, "loss": 2}',
    "a.tsv": b"s\th:m:s\tmax_rss\n3.5\t0:00",
    "a.html": b"<title>demo \xe2\x80\x93 MaskDistill</title><p>",
    "index.js": b'GALLERY.index({"images": ',
    "image.js": b'GALLERY.image("a", {"layers": {}',
    "gallery.js": b"const GALLERY = (() => {",
    "a.css": b"#grid { margin: 0",
    "a.svg": b"<svg><text class='title'>",
    "a.xml": b"<View><Label value='a'",
    "a.yaml": b"seeds: {0: {clu",
    "names.yaml": b"seeds: {0: 3}\n",
    "a.md": b"# Model\nby MaskDistill, cut",
    "labelmap.txt": b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,",
    "binary.txt": b"\xff\xfe",
    "a.pt": b"PK\x03\x04 cut",
    "a.pt2": b"PK\x03\x04 cut",
    "a.onnx": b"\x08\x0a cut",
    "a.safetensors": b"\x00" * 20,
    "a.png": b"\x89PNG cut",
    "a.jpg": b"\xff\xd8 cut",
    "empty.parquet": b"",
    "empty.txt": b"",
    "deep.json": b"[" * 100_000,
    "deep.jsonl": b"[" * 100_000,
    "deep.yaml": b"[" * 100_000,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(tmp_path, name):
    (tmp_path / name).write_bytes(FOREIGN[name])
    with pytest.raises(InputError) as error:
        describe(tmp_path / name)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / name}: a foreign file: ")
    assert message.endswith("; give an output of this workflow")
    assert "\n" not in message


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(InputError) as error:
        describe(tmp_path / name)
    message = str(error.value)
    assert re.match(rf"{tmp_path / name}: (damaged|not a|not valid|empty)", message)
    # Every fault has its remedy.
    assert re.search("; (remove it and .* again|mend it|see config/README.md)$", message)
    assert "\n" not in message


def test_expanding_paths(tree):
    pattern = str(tree / "*" / "masks" / "*.parquet")
    assert [len(group) for group in any_file.expand(pattern)] == [2, 2]
    assert len(any_file.expand(str(tree))) > 10
    with pytest.raises(InputError, match="no such file"):
        any_file.expand(str(tree / "nothing" / "*"))


def test_overview(copied):
    (copied / "train" / "masks" / "0001.parquet").write_bytes(b"PAR1")
    lines, faults = any_file.overview(any_file.expand(str(copied)))
    text = "\n".join(lines)
    assert "scored candidates of Mask R-CNN" in text
    total = sum(path.stat().st_size for path in (copied / "val" / "images").iterdir())
    found = row_of(text, str(copied / "val" / "images"))
    assert found[-4:] == ["2", "4", *terminal.size(total).split()]
    assert len(faults) == 1
    assert "0001.parquet: damaged" in faults[0]


def test_a_lock_is_empty_and_a_label_file_may_be(tmp_path):
    (tmp_path / "lock").touch()
    assert "lock of a training" in describe(tmp_path / "lock")
    (tmp_path / "lock").write_text("x")
    with pytest.raises(InputError, match="a foreign file"):
        describe(tmp_path / "lock")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").touch()
    assert "YOLO labels of 1 image: 0 polygons" in describe(tmp_path / "labels")


def test_a_cut_copy_of_any_file_is_named(copied):
    """Every kind of file of a run, cut in the middle."""
    kinds = {(path.parent.name, path.suffix): path for path in copied.rglob("*") if path.is_file()}
    assert len(kinds) > 8
    for path in kinds.values():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match="damaged") as error:
            any_file.describe([path])
        assert "\n" not in str(error.value)
    shutil.rmtree(copied)
