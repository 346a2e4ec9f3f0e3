import fcntl
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.http_server import serving
from workflow_scripts.maskdistill.data import download
from workflow_scripts.maskdistill.errors import InputError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server():
    with serving() as state:
        state.files["weights.pth"] = CONTENT
        yield state


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new folder" / "weights.pth"


def get(server, target, **source):
    source = {"url": server.url("weights.pth"), **source}
    return download.download(source, target, attempts=3, pause=0.01)


def error_of(server, target, **source):
    with pytest.raises(InputError) as error:
        get(server, target, **source)
    assert "\n" not in str(error.value)
    assert not target.exists()
    return str(error.value)


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize(
    "promised",
    [{}, {"sha256": SHA256}, {"sha256": SHA256[:8]}, {"md5": MD5[:8]}, {"bytes": len(CONTENT)}],
    ids=["nothing", "sha256", "prefix", "md5", "bytes"],
)
def test_a_whole_file(server, target, promised):
    assert get(server, target, **promised) == SHA256
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]


@pytest.mark.parametrize(
    ("promised", "message"),
    [
        ({"sha256": "0" * 64}, f"SHA-256 {SHA256} instead of 000"),
        ({"md5": "00000000"}, f"MD5 {MD5} instead of 000"),
        ({"bytes": 7}, "3000000 bytes instead of 7"),
    ],
)
def test_another_content_than_promised(server, target, promised, message):
    text = error_of(server, target, **promised)
    assert message in text
    assert server.url("weights.pth") in text
    assert left(target) == []


def test_tampered_content(server, target):
    server.files["weights.pth"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    assert "wrong checksum" in error_of(server, target, sha256=SHA256)
    assert left(target) == []


def test_an_older_file_stays_when_the_new_one_is_wrong(server, target):
    target.parent.mkdir()
    target.write_text("old")
    with pytest.raises(InputError, match="wrong checksum"):
        get(server, target, sha256="0" * 64)
    assert target.read_text() == "old"
    assert left(target) == ["weights.pth"]


def test_an_interrupted_download_is_continued(server, target):
    server.break_after = [1_000_000, 1_500_000]
    assert get(server, target, sha256=SHA256) == SHA256
    assert target.read_bytes() == CONTENT
    assert [part for _, part in server.requests] == [None, "bytes=1000000-", "bytes=2500000-"]


def test_the_next_run_continues(server, target):
    server.break_after = [1_000_000, 0, 0]
    assert "3 times; what has arrived is kept" in error_of(server, target, sha256=SHA256)
    assert left(target) == [".weights.pth.part", ".weights.pth.version"]
    del server.requests[:]
    assert get(server, target, sha256=SHA256) == SHA256
    assert [part for _, part in server.requests] == ["bytes=1000000-"]
    assert left(target) == ["weights.pth"]


def test_a_complete_file_that_was_not_renamed_yet(server, target):
    server.break_after = [1_000_000, 0, 0]
    error_of(server, target)
    (target.parent / ".weights.pth.part").write_bytes(CONTENT)
    assert get(server, target, sha256=SHA256) == SHA256


@pytest.mark.parametrize("weakness", ["ranges", "tags"])
def test_a_server_that_cannot_continue_starts_again(server, target, weakness):
    setattr(server, weakness, False)
    server.break_after = [1_000_000]
    assert get(server, target, sha256=SHA256) == SHA256
    assert target.read_bytes() == CONTENT


def test_a_new_version_is_not_glued_to_the_old_one(server, target):
    server.break_after = [1_000_000, 0, 0]
    error_of(server, target)
    server.files["weights.pth"] = CONTENT[::-1]
    get(server, target)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_damaged_beginning_is_downloaded_once_more(server, target):
    server.break_after = [1_000_000, 0, 0]
    error_of(server, target)
    with open(target.parent / ".weights.pth.part", "r+b") as file:
        file.write(b"damage")
    assert get(server, target, sha256=SHA256) == SHA256
    assert target.read_bytes() == CONTENT


def test_a_missing_file(server, target):
    del server.files["weights.pth"]
    text = error_of(server, target)
    assert "404" in text
    assert str(target) in text  # where to put it by other means
    assert len(server.requests) == 1
    assert left(target) == []


def test_a_busy_server_is_asked_again(server, target):
    server.failures = [503, 500]
    assert get(server, target) == SHA256
    server.failures = [503] * 3
    target.unlink()
    assert "503" in error_of(server, target)


def test_no_connection(tmp_path):
    source = {"url": "http://127.0.0.1:9/weights.pth"}
    with pytest.raises(InputError, match="Without a network, put the file at"):
        download.download(source, tmp_path / "weights.pth", attempts=2, pause=0.01)
    assert not (tmp_path / "weights.pth").exists()


def test_two_downloads_of_one_file(server, target):
    target.parent.mkdir()
    with open(target.parent / ".weights.pth.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process is downloading it" in error_of(server, target)
    assert get(server, target) == SHA256


def test_what_another_process_has_just_downloaded_is_left_alone(server, target, monkeypatch):
    target.parent.mkdir()
    (target.parent / ".weights.pth.part").write_bytes(CONTENT)
    lock = fcntl.flock

    def finish_meanwhile(file, operation):
        Path(file.name).rename(target)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", finish_meanwhile)
    with pytest.raises(InputError, match="another process has just downloaded it"):
        get(server, target)
    assert target.read_bytes() == CONTENT


def test_a_first_download_is_pinned(server, target, tmp_path):
    lock = tmp_path / "checksums.json"
    source = {"url": server.url("weights.pth"), "md5": MD5[:8]}
    assert download.pinned(source, lock) == source
    download.pin(source, get(server, target), target, lock)
    download.pin({"url": "http://other"}, "1" * 64, target, lock)
    found = download.pinned(source, lock)
    assert found == {**source, "sha256": SHA256, "bytes": len(CONTENT)}
    assert set(json.loads(lock.read_text())) == {source["url"], "http://other"}
    target.unlink()
    server.files["weights.pth"] = CONTENT + b"more"
    assert "bytes instead of 3000000" in error_of(server, target, **found)


def test_a_damaged_lock_file(tmp_path):
    (tmp_path / "checksums.json").write_text("{")
    with pytest.raises(InputError, match=r"checksums\.json: not valid JSON"):
        download.pinned({"url": "http://a"}, tmp_path / "checksums.json")


def test_a_file_that_is_here_is_verified(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert download.verify({"md5": MD5}, tmp_path / "a") == SHA256
    with pytest.raises(InputError, match="wrong checksum"):
        download.verify({"md5": "0" * 32}, tmp_path / "a")
