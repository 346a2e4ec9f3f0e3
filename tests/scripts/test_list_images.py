import json

import numpy as np
import pytest
from PIL import Image

from tests import odd_files
from workflow_scripts import list_images
from workflow_scripts.maskdistill.data import datasets, folders
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance, shards

LIMITS = {"max_pixels": 5000, "min_side": 4}
DATASET = {"adapter": "folder", "splits": {"train": "."}}


def call(tmp_path, shard=0, number=1, workers=2, tolerated=(0.01, 10), limits=LIMITS):
    settings = {"dataset": DATASET, "shards": number, "images": limits}
    output = tmp_path / "out" / f"{shard}.parquet"
    options = [f"--settings={json.dumps(settings)}", f"--root={tmp_path / 'root'}"]
    options += [
        "--max-rejected",
        *map(str, tolerated),
        "--split=train",
        f"--shard={shard}",
        f"--workers={workers}",
        f"--output={output}",
    ]
    assert list_images.main(options) == 0
    return list(shards.read_rows(output))


@pytest.fixture
def folder(tmp_path, write_image):
    """Good images and bad ones of every kind."""
    root = tmp_path / "root"
    write_image(root / "a" / "good one.png", 24, 32)
    write_image(root / "b" / "ü – 写.jpg", 20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "b" / "turned.jpg", exif=exif)
    write_image(root / "bad" / "small.png", 3, 50)
    write_image(root / "bad" / "large.png", 100, 51)
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "bad" / "cut.jpg")
    data = (root / "bad" / "cut.jpg").read_bytes()
    (root / "bad" / "cut.jpg").write_bytes(data[: len(data) // 2])
    (root / "bad" / "empty.webp").touch()
    (root / "bad" / "text.png").write_text("text")
    return root


def test_every_image_has_a_row_and_every_bad_one_its_reason(tmp_path, folder, capsys):
    rows = {row["file_name"]: row for row in call(tmp_path)}
    assert list(rows) == sorted(rows)
    sizes = {name: (row["height"], row["width"]) for name, row in rows.items()}
    assert {name: size for name, size in sizes.items() if not name.startswith("bad")} == {
        "a/good one.png": (24, 32),
        "b/ü – 写.jpg": (20, 10),
        "b/turned.jpg": (12, 8),
    }
    reasons = {
        "bad/small.png": "too small: 3 x 50",
        "bad/large.png": "too large: 100 x 51",
        "bad/cut.jpg": "truncated",
        "bad/empty.webp": "empty file",
        "bad/text.png": "not an image",
    }
    printed = capsys.readouterr().out
    for name, reason in reasons.items():
        assert rows[name]["status"].startswith(reason)
        assert sizes[name] == (None, None)
        assert f"rejected {name}: {reason}" in printed
    assert [r["status"] for n, r in rows.items() if n not in reasons] == ["ok"] * 3
    listed = datasets.list_images(DATASET, folder, "train")
    assert {row["image_id"]: name for name, row in rows.items()} == dict(listed)


def test_a_folder_of_odd_files(tmp_path, capsys):
    """Each file is used, rejected with a reason, or skipped and counted by type."""
    root = tmp_path / "root"
    good = {f"good/{name}" for name in odd_files.write_images(root / "good")}
    several = {f"frames/{name}" for name in odd_files.write_frames(root / "frames")}
    bad = {f"bad/{name}": why for name, why in odd_files.write_broken(root / "bad").items()}
    others = odd_files.write_others(root / "others")
    limits = {"max_pixels": 10_000, "min_side": 4}
    parts, records = [], []
    for shard in range(3):
        parts += call(tmp_path, shard, 3, tolerated=(1, 0), limits=limits)
        records.append(provenance.read(tmp_path / "out" / f"{shard}.parquet")["skipped"])
    rows = {row["file_name"]: row["status"] for row in parts}
    assert {name for name, status in rows.items() if status == "ok"} == good | several
    assert {name for name, status in rows.items() if status != "ok"} == set(bad)
    assert all(reason in rows[name] for name, reason in bad.items())
    found = folders.read_skipped(tmp_path / "out" / f"{shard}.parquet" for shard in range(3))
    assert found == folders.merged(records)
    counts = {kind: one["count"] for kind, one in found.items()}
    assert counts == {**others, folders.LATER_FRAMES: len(several)}
    assert found[".cr2"]["example"] == "others/raw.CR2"
    printed = capsys.readouterr().out.splitlines()
    assert "skipped 1 × .cr2 (for example others/raw.CR2)" in printed
    assert all(line.startswith(("skipped ", "rejected bad/")) for line in printed)


def test_images_of_one_colour_are_used_and_counted(tmp_path, capsys):
    root = tmp_path / "root"
    root.mkdir()
    for name in ("b.jpg", "a.png"):
        Image.new("RGB", (60, 50), (30, 90, 200)).save(root / name)
    Image.fromarray(odd_files.PICTURE).save(root / "c.png")
    rows = call(tmp_path, limits={"max_pixels": 10_000, "min_side": 4})
    assert {row["status"] for row in rows} == {"ok"}
    found = folders.read_one_colour([tmp_path / "out" / "0.parquet"])
    assert found == {"of one colour": {"count": 2, "example": "a.png"}}
    assert "2 × of one colour (for example a.png)" in capsys.readouterr().out


def test_a_name_with_a_line_break_stays_on_its_line(tmp_path, capsys):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a\nb.png").touch()
    call(tmp_path)
    assert "rejected 'a\\nb.png': empty file" in capsys.readouterr().out
    with pytest.raises(InputError) as error:
        call(tmp_path, tolerated=(0, 0))
    assert "\n" not in str(error.value)


def test_too_many_bad_images_stop_the_run(tmp_path, folder):
    with pytest.raises(InputError, match=r"5 of 8 images .*bad/cut\.jpg: truncated") as error:
        call(tmp_path, tolerated=(0.5, 4))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "0.parquet").exists()
    assert len(call(tmp_path, tolerated=(0.01, 5))) == 8
    assert len(call(tmp_path, tolerated=(0.7, 0))) == 8


def test_shards_share_the_images(tmp_path, folder):
    whole = call(tmp_path)
    parts = [call(tmp_path, shard, 3, workers=1) for shard in range(3)]
    assert all(row["shard"] == shard for shard, part in enumerate(parts) for row in part)
    joined = sorted((row for part in parts for row in part), key=lambda row: row["file_name"])
    assert [{**row, "shard": 0} for row in joined] == whole


def test_shards_that_hold_only_bad_images_or_none(tmp_path, folder):
    """With many shards, a shard may have only a bad image, which must not stop the run."""
    parts = [call(tmp_path, shard, 40) for shard in range(40)]
    assert sum(map(len, parts)) == 8
    assert [] in parts
