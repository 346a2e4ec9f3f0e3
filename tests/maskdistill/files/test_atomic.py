import errno
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.files.atomic import (
    FOLDER_MARK,
    atomic_folder,
    atomic_path,
    write_text,
)


def test_the_file_appears_whole_and_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "table.tar.parquet"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert not temporary.match("*.parquet"), "DuckDB would read it"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == [path.name]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_halfway():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail_halfway()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, number, where):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, where, full)
    with pytest.raises(InputError, match=r"a\.txt: no space left") as error:
        write_text(path, "new")
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_a_device_that_is_really_full(tmp_path):
    def write():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.touch()
            with open("/dev/full", "w") as file:
                file.write("x")

    with pytest.raises(InputError, match="no space left"):
        write()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_shard(small_disk):
    """Random bytes, which zstd makes no smaller."""
    path = small_disk / "0000.parquet"

    def write(size):
        row = {"image_id": 1, "image": {"bytes": os.urandom(size), "path": "a.png"}}
        shards.write_table(path, "label_maps", [row], {})

    write(100_000)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"0000\.parquet: no space left"):
        write(2_000_000)
    assert path.read_bytes() == before
    assert os.listdir(small_disk) == ["0000.parquet"]


def test_what_a_killed_attempt_left_is_removed_and_nothing_else(tmp_path):
    for name in (".a.txt.tmp1", ".b.txt.tmp1", "a.txt.tmp1"):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a.txt", "new")
    assert sorted(os.listdir(tmp_path)) == [".b.txt.tmp1", "a.txt", "a.txt.tmp1"]


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    def write_nothing():
        with atomic_path(tmp_path / "a.txt"):
            pass

    with pytest.raises(FileNotFoundError):
        write_nothing()


def test_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "0" * 100_000)
    seen = set()
    done = threading.Event()

    def read():
        while not done.is_set():
            text = path.read_text()
            seen.add((len(text), len(set(text))))
            reading.set()

    reading = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(60)
    for digit in range(1, 30):
        write_text(path, str(digit % 10) * 100_000)
    done.set()
    reader.join()
    assert seen == {(100_000, 1)}


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "a.json", "größer – 写")
    assert (tmp_path / "a.json").read_bytes().decode("utf-8") == "größer – 写"


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "old").write_text("1")

    def fail():
        with atomic_folder(tmp_path / "a" / "b") as folder:
            (folder / "half").write_text("2")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert set(os.listdir(tmp_path / "a" / "b")) == {"old", FOLDER_MARK}
    with atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "new").write_text("3")
    assert set(os.listdir(tmp_path / "a" / "b")) == {"new", FOLDER_MARK}
    assert os.listdir(tmp_path / "a") == ["b"]


def write_folder(path, name="new"):
    with atomic_folder(path) as folder:
        (folder / name).write_text(name)


def test_a_folder_of_others_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "file").write_text("text")
    for name, message in (("mine", "choose another"), ("link", "mine: .*choose"), ("file", "file")):
        with pytest.raises(InputError, match=message) as error:
            write_folder(tmp_path / name)
        assert "\n" not in str(error.value)
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
    assert (tmp_path / "file").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "mine"]


def test_an_empty_folder_and_what_a_link_names_are_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("empty", "link"):
        write_folder(tmp_path / name, name)
        assert set(os.listdir(tmp_path / "empty")) == {name, FOLDER_MARK}
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["empty", "link"]


@pytest.mark.parametrize("killed", [1, 2])
def test_a_crash_while_folders_are_exchanged_loses_neither(tmp_path, monkeypatch, killed):
    """kill -9 at one of the two renames: the next attempt finds the old folder, or the new one."""
    path, calls, rename = tmp_path / "a", [], Path.rename
    write_folder(path, "old")

    def crash(self, target):
        calls.append(target)
        if len(calls) == killed:
            os._exit(9)
        return rename(self, target)

    if not (child := os.fork()):
        monkeypatch.setattr(Path, "rename", crash)
        try:
            write_folder(path, "new")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} >= {"old", "new"}

    def fail():
        with atomic_folder(path):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert set(os.listdir(path)) == {"old", FOLDER_MARK}
    assert os.listdir(tmp_path) == ["a"]
    write_folder(path)
    assert set(os.listdir(path)) == {"new", FOLDER_MARK}


def test_a_failing_exchange_brings_the_old_folder_back(tmp_path, monkeypatch):
    write_folder(tmp_path / "a", "old")
    rename = Path.rename

    def full(self, target):
        if ".tmp" in self.name:
            raise OSError(errno.ENOSPC, "")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(InputError, match="no space left"):
        write_folder(tmp_path / "a")
    assert set(os.listdir(tmp_path / "a")) == {"old", FOLDER_MARK}
    assert os.listdir(tmp_path) == ["a"]
