import pytest

from tests.maskdistill.inspection import describe, row_of
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.pictures import contact_sheets


def test_pages(tmp_path):
    (tmp_path / "report.html").write_text("<title>demo – MaskDistill</title></html>")
    assert "page for a browser, " in describe(tmp_path / "report.html")


def test_names_of_clusters(tmp_path):
    text = contact_sheets.template(3, "0123456789abcdef", [5, 1])
    (tmp_path / "names.yaml").write_text(text.replace("cluster_002", "bird"))
    text = describe(tmp_path / "names.yaml")
    assert "names of clusters, of 1 seed\n" in text
    assert "seed 3" in text
    assert row_of(text, "2") == ["bird"]


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
    with pytest.raises(InputError, match="damaged, it contains null characters"):
        describe(path)


def test_losses_for_tensorboard(tmp_path):
    (tmp_path / "events.out.tfevents.1700000000.host.7.0").write_bytes(b"\x18\0\0")
    assert "tensorboard --logdir" in describe(tmp_path)
