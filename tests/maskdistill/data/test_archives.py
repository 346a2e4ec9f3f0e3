import io
import tarfile
import zipfile

import pytest

from tests.miniatures import tar, zipped
from workflow_scripts.maskdistill.data import archives
from workflow_scripts.maskdistill.errors import InputError

FILES = {
    "kit/VOC/JPEGImages/1.jpg": b"one",
    "kit/VOC/ImageSets/Main/train.txt": b"1\n",
    "kit/VOC/train.txt": b"2\n",
    "kit/other/README": b"no",
}


def packed(tmp_path, kind, files=FILES):
    make = {"tar": tar, "tgz": lambda f: tar(f, "gz"), "zip": zipped}[kind]
    path = tmp_path / f"archive.{kind}"
    path.write_bytes(make(files))
    return path


def unpacked(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_all_or_a_part(tmp_path, kind):
    path = packed(tmp_path, kind)
    assert archives.unpack(path, tmp_path / "all") == 4
    assert unpacked(tmp_path / "all") == FILES
    kept = {"strip": "kit/VOC", "keep": ["JPEGImages", "train.txt"]}
    assert archives.unpack(path, tmp_path / "part", **kept) == 2
    assert unpacked(tmp_path / "part") == {"JPEGImages/1.jpg": b"one", "train.txt": b"2\n"}
    with pytest.raises(InputError, match="no files to unpack below kit/VOC2012"):
        archives.unpack(path, tmp_path / "none", strip="kit/VOC2012")


@pytest.mark.parametrize("name", ["../evil", "kit/../../evil", "/tmp/evil", "kit\\..\\..\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_that_would_leave_the_folder(tmp_path, kind, name):
    path = packed(tmp_path, kind, {name: b"evil", **FILES})
    with pytest.raises(InputError, match=r"archive\.\w+: unsafe archive, not unpacked"):
        archives.unpack(path, tmp_path / "deep" / "folder", strip="kit")
    assert not list(tmp_path.rglob("evil"))
    assert unpacked(tmp_path / "deep") == {}


def with_hard_link(path, name, target, kind="w"):
    """`FILES` and then a hard link."""
    with tarfile.open(path, kind) as archive:
        for file, content in FILES.items():
            member = tarfile.TarInfo(file)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.LNKTYPE, target
        archive.addfile(link)
    return path


@pytest.mark.parametrize("kind", ["w", "w:gz"])
def test_a_hard_link_becomes_a_copy(tmp_path, kind):
    arguments = ("kit/VOC/ImageSets/new/val.txt", "kit/VOC/ImageSets/Main/train.txt", kind)
    path = with_hard_link(tmp_path / "a.tar", *arguments)
    found = {**FILES, "kit/VOC/ImageSets/new/val.txt": b"1\n"}
    assert archives.unpack(path, tmp_path / "all") == 5
    assert unpacked(tmp_path / "all") == found
    assert archives.unpack(path, tmp_path / "part", strip="kit/VOC", keep=["ImageSets"]) == 2
    assert unpacked(tmp_path / "part") == {
        "ImageSets/Main/train.txt": b"1\n",
        "ImageSets/new/val.txt": b"1\n",
    }
    # It is a file of its own, and of links that are not wanted nothing is asked.
    assert (tmp_path / "part/ImageSets/new/val.txt").stat().st_nlink == 1
    assert archives.unpack(path, tmp_path / "other", strip="kit/other") == 1
    # A file that was packed twice.
    twice = with_hard_link(tmp_path / "b.tar", "kit/VOC/train.txt", "kit/VOC/train.txt")
    assert archives.unpack(twice, tmp_path / "twice") == 4
    assert unpacked(tmp_path / "twice") == FILES


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("kit/VOC/a.txt", "kit/VOC/absent", "hard link to 'kit/VOC/absent'.*--hard-dereference"),
        ("kit/VOC/a.txt", "kit/other/README", "hard link to 'kit/other/README'"),  # left out
        ("kit/VOC/a.txt", "../secret", "unsafe archive"),
        ("kit/VOC/a.txt", "/etc/hostname", "unsafe archive"),
    ],
)
def test_a_hard_link_to_what_is_not_unpacked(tmp_path, name, target, message):
    (tmp_path / "secret").write_text("secret")
    path = with_hard_link(tmp_path / "a.tar", name, target)
    with pytest.raises(InputError, match=message):
        archives.unpack(path, tmp_path / "out", strip="kit/VOC")
    assert not (tmp_path / "out/a.txt").exists()


def test_symbolic_links_are_left_out(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("kit/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        member = tarfile.TarInfo("kit/link/evil")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    archives.unpack(tmp_path / "a.tar", tmp_path / "out")
    assert unpacked(tmp_path / "out") == {"kit/link/evil": b"evil"}
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_damaged_archives(tmp_path, kind):
    large = {"a": b"\0" * 40_000, "b": bytes(range(256)) * 200}
    path = packed(tmp_path, kind, large)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InputError, match="damaged, or not an archive"):
        archives.unpack(path, tmp_path / "out")
    path.write_text("no archive")
    with pytest.raises(InputError, match="damaged, or not an archive"):
        archives.unpack(path, tmp_path / "out")


def test_a_changed_byte_in_a_zip(tmp_path):
    path = packed(tmp_path, "zip", {"a": b"abcdefgh" * 100})
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert zipfile.is_zipfile(path)
    with pytest.raises(InputError, match="damaged, or not"):
        archives.unpack(path, tmp_path / "out")
