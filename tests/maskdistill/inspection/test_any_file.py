import re
import shutil

import pytest
from PIL import Image

from tests.maskdistill.inspection import describe, row_of
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.atomic import atomic_folder
from workflow_scripts.maskdistill.inspection import any_file, terminal


@pytest.fixture
def export(tmp_path):
    """A folder that was written as a whole."""
    made_by = provenance.record("exports", {}, program="export_dataset", format="yolo")
    with atomic_folder(tmp_path / "tree" / "exports" / "yolo", made_by) as folder:
        (folder / "labels").mkdir()
        (folder / "labels" / "a.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n")
        (folder / "labels" / "b.txt").write_text("")  # nothing was found in this image
        (folder / "data.json").write_text("[1]")
        Image.new("RGB", (5, 4)).save(folder / "a.png")
    return tmp_path / "tree" / "exports" / "yolo"


def test_what_belongs_together_in_a_tree(tmp_path, export):
    pictures = tmp_path / "tree" / "pictures"
    pictures.mkdir()
    for name in ("a.png", "b.png", "c.jpg"):
        Image.new("RGB", (5, 4)).save(pictures / name)
    groups = [
        [str(file.relative_to(tmp_path / "tree")) for file in group]
        for group in any_file.expand(str(tmp_path / "tree"))
    ]
    assert groups == [
        [f"exports/yolo/{n}" for n in (".maskdistill", "a.png", "data.json")]
        + ["exports/yolo/labels/a.txt", "exports/yolo/labels/b.txt"],
        ["pictures/a.png", "pictures/b.png"],
        ["pictures/c.jpg"],
    ]
    lines, faults = any_file.overview(any_file.expand(str(tmp_path / "tree")))
    assert faults == []
    found = row_of("\n".join(lines), str(export))
    assert found[:5] == ["folder", "written", "by", "export_dataset:", "4"]


def test_a_folder_that_was_written_as_a_whole(export):
    text = describe(export, check=True)
    assert "folder written by export_dataset: 4 files" in text
    assert "format    yolo" in text
    assert row_of(text, ".txt") == ["2", "26", "bytes"]
    assert "part of" in describe(export / "labels" / "a.txt")
    assert f"part of {export}, written by export_dataset: 3 bytes" in describe(export / "data.json")


@pytest.mark.parametrize(("name", "content"), [("a.png", b"\x89PNG"), ("data.json", b"[1")])
def test_a_damaged_file_in_such_a_folder(export, name, content):
    (export / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: damaged"):
        describe(export, check=True)
    (export / name).write_bytes(b"\0")
    with pytest.raises(InputError, match=f"{name}: damaged"):
        describe(export, check=True)


def test_a_file_with_a_record_of_its_own(tmp_path):
    (tmp_path / "figure.svg").write_text("<svg/>")
    made_by = provenance.record("tabulate_ablation", {"clustering": {"clusters": 6}})
    provenance.write_record(tmp_path / "figure.svg", made_by)
    text = describe(tmp_path / "figure.svg")
    assert "written by tabulate_ablation: 6 bytes" in text
    assert row_of(text, "clustering.clusters") == ["6"]


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
    "a.yaml": b"seeds: {0: {clu",
    "names.yaml": b"seeds: {0: 3}\n",
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
    assert message.startswith(f"{tmp_path / name}: not a file of this workflow: ")
    assert message.endswith("; give one of its outputs")
    assert "\n" not in message


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(InputError) as error:
        describe(tmp_path / name)
    message = str(error.value)
    assert re.match(rf"{tmp_path / name}: (damaged|not a|not valid|empty)", message)
    # Every fault has its remedy.
    assert re.search("; (remove it and .* again|correct it|see config/README.md)$", message)
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


def test_a_lock_is_empty(tmp_path):
    (tmp_path / "lock").touch()
    assert "lock file, which a training holds" in describe(tmp_path / "lock")
    (tmp_path / "lock").write_text("x")
    with pytest.raises(InputError, match="not a file of this workflow"):
        describe(tmp_path / "lock")


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
