from PIL import Image

from tests import odd_files
from workflow_scripts.maskdistill.data import datasets, folders
from workflow_scripts.maskdistill.data.survey import lines, survey

FOLDER = {"adapter": "folder", "splits": {"train": "."}}
LIMITS = {"max_pixels": 10_000, "min_side": 4}


def test_a_folder_of_odd_files(tmp_path):
    good = odd_files.write_images(tmp_path / "good")
    several = odd_files.write_frames(tmp_path / "frames")
    bad = odd_files.write_broken(tmp_path / "bad")
    others = odd_files.write_others(tmp_path / "others")
    listing = datasets.list_split(FOLDER, tmp_path, "train")
    found = survey(listing, tmp_path, LIMITS, sample=1000, workers=2)
    assert found.images == len(good) + len(several) + len(bad)
    assert len(found.read) == len(good) + len(several)
    assert {name.removeprefix("bad/") for name in found.rejected} == set(bad)
    assert not found.sampled
    assert found.rejected_share == len(bad) / found.images
    assert found.undecided_turns == 3  # orientations 2, 3 and 4
    counts = {kind: one["count"] for kind, one in found.skipped.items()}
    assert counts == {**others, folders.LATER_FRAMES: len(several)}
    text = "\n".join(lines(found))
    assert f"{found.images} images, " in text
    assert "4 × HEIF" in text
    assert "sizes: 64 × 96 to 64 × 96, the median is 64 × 96" in text
    assert "22 × 16 bits" in text
    assert "1 × orientation 2, 1 × orientation 3" in text
    assert "cannot be used: 1 × empty file (0 bytes) (for example bad/zero bytes.jpg)" in text
    assert "skipped 2 × .txt (for example others/more.TXT)" in text


def test_a_sample_is_said(tmp_path):
    for number in range(30):
        Image.new("RGB", (32, 24)).save(tmp_path / f"{number:02}.png")
    listing = datasets.list_split(FOLDER, tmp_path, "train")
    found = survey(listing, tmp_path, LIMITS, sample=10, workers=1)
    assert (found.images, len(found.read), found.sampled) == (30, 10, True)
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found.seconds > 0
    text = lines(found)
    assert "the following lines are about 10 of them, drawn at random" in text
    assert not any("bits" in line or "EXIF" in line for line in text)  # all as usual
