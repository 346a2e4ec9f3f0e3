import hashlib
import json

import pytest

from tests import miniatures
from tests.http_server import serving
from workflow_scripts import download_dataset
from workflow_scripts.maskdistill.data import download
from workflow_scripts.maskdistill.errors import InputError


@pytest.fixture
def server():
    with serving() as state:
        state.files["a.tar"] = miniatures.tar({"kit/images/1.jpg": b"1", "kit/x": b""})
        state.files["b.zip"] = miniatures.zipped({"labels/1.png": b"2"})
        yield state


def call(server, tmp_path, root="data/voc", **changes):
    first = {"url": server.url("a.tar"), "strip": "kit", "keep": ["images"]}
    second = {"url": server.url("b.zip"), "into": "more", **changes}
    options = ["--settings", json.dumps({"archives": [first, second]})]
    options += [f"--checksums={tmp_path / 'checksums.json'}"]
    options += [f"--archives={tmp_path / 'data/archives'}"]
    return download_dataset.main([*options, f"--output={tmp_path / root / 'downloaded.json'}"])


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_archives_become_a_folder(server, tmp_path):
    (tmp_path / "data/voc").mkdir(parents=True)  # Snakemake makes this folder before the job
    assert call(server, tmp_path) == 0
    root = tmp_path / "data/voc"
    assert files(tmp_path / "data") == [
        "voc/downloaded.json",
        "voc/images/1.jpg",
        "voc/more/labels/1.png",
    ]
    marker = json.loads((root / "downloaded.json").read_text())
    content = server.files["a.tar"]
    assert marker[server.url("a.tar")] == {"sha256": hashlib.sha256(content).hexdigest()}


def test_an_archive_that_is_here_is_not_downloaded(server, tmp_path):
    archive = tmp_path / "data/archives/a.tar"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(server.files["a.tar"])
    call(server, tmp_path)
    assert [name for name, _ in server.requests] == ["b.zip"]


def test_a_wrong_archive_leaves_no_folder(server, tmp_path):
    with pytest.raises(InputError, match="wrong checksum"):
        call(server, tmp_path, sha256="0" * 64)
    assert files(tmp_path / "data") == ["archives/a.tar"]  # this right archive is kept


def test_an_interrupted_download_leaves_no_folder_and_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    server.break_after = [1000] + [0] * 5
    with pytest.raises(InputError, match="6 times; what has arrived is kept"):
        call(server, tmp_path)
    assert not (tmp_path / "data/voc").exists()
    del server.requests[:]
    assert call(server, tmp_path) == 0
    assert server.requests == [("a.tar", "bytes=1000-"), ("b.zip", None)]


def test_an_unsafe_archive_leaves_no_folder(server, tmp_path):
    server.files["b.zip"] = miniatures.zipped({"../evil": b"2"})
    with pytest.raises(InputError, match="unsafe archive"):
        call(server, tmp_path)
    assert not (tmp_path / "data/voc").exists()
    assert not list(tmp_path.rglob("evil"))


def test_files_of_the_user_are_left_alone(server, tmp_path):
    mine = tmp_path / "data/voc/JPEGImages/mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"move the folder out of data/ and set dataset\.root"):
        call(server, tmp_path)
    assert mine.read_bytes() == b"mine"
    assert server.requests == []
