import numpy as np
import pytest
import yaml
from PIL import Image

from tests import odd_files
from workflow_scripts import new_dataset
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import schedule
from workflow_scripts.maskdistill.runs.schedule import Machine
from workflow_scripts.maskdistill.settings.downloads import read_catalogue
from workflow_scripts.maskdistill.settings.whole_config import dataset_config

GPU = Machine("a GPU", 24_000_000_000, 8, 64_000_000_000)
LAPTOP = Machine(None, 0, 2, 16_000_000_000)


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Work in an empty folder, on a machine with a GPU; gives a function that sets the machine."""
    monkeypatch.chdir(tmp_path)

    def be(one):
        monkeypatch.setattr(schedule, "this_machine", lambda: one)

    be(GPU)
    return be


def photographs(root, number=60, size=(24, 32)):
    root.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        Image.fromarray(np.full((*size, 3), i, np.uint8)).save(root / f"{i:03}.jpg")
    return root


def written(name="mine"):
    """The content of the written file, and the whole config of a run with it."""
    path = new_dataset.FOLDER / f"{name}.yaml"
    own = yaml.safe_load(path.read_text())
    default = yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text())
    catalogue = read_catalogue(REPOSITORY / "resources" / "downloads.yaml")
    known = catalogue["files"]
    return own, dataset_config(name, default, new_dataset.FOLDERS, downloadable=known)


def comments(name="mine"):
    """The written file as one line, without the signs of comments."""
    text = (new_dataset.FOLDER / f"{name}.yaml").read_text()
    return " ".join(text.replace("#", " ").split())


def test_a_folder_of_photographs(tmp_path, capsys):
    photographs(tmp_path / "my photos")
    assert new_dataset.main(["mine", "my photos"]) == 0
    own, config = written()
    assert own["preset"] == "standard"
    assert own["dataset"] == {"root": "my photos", "adapter": "folder", "splits": {"train": "."}}
    assert own["clustering"] == {"clusters": 6}
    assert own["shards"] == 1
    assert config["mask_rcnn"]["weights"].startswith("data/weights/moco")
    assert config["mask_rcnn"]["iterations"] == own["mask_rcnn"]["iterations"] > 100
    printed = capsys.readouterr().out
    assert "60 images" in printed
    assert "formats: 60 × JPEG" in printed
    assert "of one colour, so that they show nothing: 60" in printed
    assert "Expected time on this machine (a GPU; preset standard)" in printed
    assert "data/weights/moco_v2_800ep_pretrain.pth.tar (369 MB)" in printed
    lines = printed.splitlines()
    assert lines[-1] == ("  snakemake --profile profiles/local all --config datasets='[mine]'")
    text = (new_dataset.FOLDER / "mine.yaml").read_text()
    assert "# - formats: 60 × JPEG" in text
    settings = [line for line in text.splitlines() if line and line[0] not in "#"]
    keys = [line for line in settings if not line.endswith(":")]
    assert sum("#" in line for line in keys) > 0.7 * len(keys)
    assert max(map(len, text.splitlines())) <= 100


def test_a_transformer_of_ones_own(tmp_path, capsys):
    photographs(tmp_path / "photos", 3)
    (tmp_path / "own.pth").write_bytes(b"weights")
    name = "vit_tiny_patch16_224"
    new_dataset.main(["mine", "photos", "--backbone", name, "--weights", "own.pth"])
    features = written()[1]["features"]
    assert features["backbone"] == name
    assert features["weights"] == str(tmp_path / "own.pth")
    assert "data/weights/dino" not in capsys.readouterr().out  # nothing to download for it


def test_nothing_is_overwritten_without_asking(tmp_path):
    photographs(tmp_path / "photos", 3)
    new_dataset.main(["mine", "photos"])
    path = new_dataset.FOLDER / "mine.yaml"
    path.write_text("# mine")
    with pytest.raises(InputError, match=r"mine\.yaml exists already; .*--force"):
        new_dataset.main(["mine", "photos"])
    assert path.read_text() == "# mine"
    new_dataset.main(["mine", "photos", "--force"])
    assert "photos" in path.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mine", "nowhere"], "nowhere: no such folder"),
        (["my photos", "photos"], "NAME: 'my photos' does not match"),
        (["voc2012", "photos"], "'voc2012' is a dataset of this repository"),
        (["mine", "empty"], "empty: no images for the split 'train': skipped 1 × .txt"),
        (["mine", "broken"], "broken: none of its images can be read"),
        (["mine", "photos", "--preset", "standrd"], "'standrd', did you mean 'standard'"),
        (["mine", "photos", "--backbone", "vit_tiny_patch16_224"], "--backbone needs --weights"),
        (["mine", "photos", "--weights", "none.pth"], "--weights: none.pth is not a file"),
        (["mine", "photos", "--hours", "0"], "--hours and --sample must be greater than 0"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, options, message):
    photographs(tmp_path / "photos", 3)
    for folder, name in (("empty", "notes.txt"), ("broken", "a.jpg")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("text")
    with pytest.raises(InputError) as error:
        new_dataset.main(options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_folder_of_odd_files(tmp_path, capsys):
    """Files that cannot be used are reported, and `max_rejected` is set so that a run goes on."""
    odd_files.write_images(tmp_path / "photos/good")
    odd_files.write_broken(tmp_path / "photos/bad")
    odd_files.write_others(tmp_path / "photos/others")
    new_dataset.main(["mine", "photos"])
    own, config = written()
    assert config["images"]["max_rejected"] == own["images"]["max_rejected"]
    total = sum(path.is_file() or path.is_symlink() for path in (tmp_path / "photos/bad").iterdir())
    assert 13 / 100 < own["images"]["max_rejected"] < 0.3, total
    printed = capsys.readouterr().out
    text = (new_dataset.FOLDER / "mine.yaml").read_text()
    for fact in ("skipped 1 × .cr2", "cannot be used: 1 × empty file", "4 × HEIF", "orientation 6"):
        assert fact in printed
        assert fact in " ".join(text.split())


def test_labels_are_found_and_turns_are_told(tmp_path):
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name, orientation in (("a", 1), ("b", 3), ("c", 6)):
        picture = Image.new("RGB", (32, 24))
        picture.save(root / f"JPEGImages/{name}.jpg", exif=odd_files.exif(orientation))
        Image.fromarray(np.full((24, 32), 2, np.uint8)).save(root / f"SegmentationClass/{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\nc\n")
    new_dataset.main(["mine", str(root)])
    own, config = written()
    assert own["dataset"]["ground_truth"] is True
    assert own["dataset"]["label_orientation"] == "auto"
    assert config["clustering"]["clusters"] == 2
    assert "EXIF turns 1 photographs without a change of their size" in comments()


@pytest.mark.parametrize("having", ["", "ab", "abc"])
def test_labels_without_masks_of_single_objects(tmp_path, having, capsys):
    root = tmp_path / "voc"
    for folder in (
        "JPEGImages",
        "SegmentationClass",
        "SegmentationObject",
        "ImageSets/Segmentation",
    ):
        (root / folder).mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (32, 24)).save(root / f"JPEGImages/{name}.jpg")
        for folder in ("SegmentationClass", "SegmentationObject"):
            if folder == "SegmentationClass" or name in having:
                Image.fromarray(np.full((24, 32), 2, np.uint8)).save(root / folder / f"{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\nc\n")
    new_dataset.main(["mine", str(root)])
    own, config = written()
    assert own["dataset"]["ground_truth"] is True
    assert config["evaluation"]["objects"] is (having == "abc")
    assert ("evaluation" in own) is (having != "abc")
    explained = "images have no masks of single objects in SegmentationObject"
    assert (explained in comments()) is (having != "abc")
    note = "1 of 3 images of the split 'train' have no map of their objects"
    assert (note in capsys.readouterr().out) is (having == "ab")
    assert (note in comments()) is (having == "ab")


def test_without_a_gpu_a_quick_preset_is_chosen_if_there_is_one(tmp_path, machine, capsys):
    photographs(tmp_path / "photos", 3)
    machine(LAPTOP)
    (tmp_path / "config/presets").mkdir(parents=True)
    new_dataset.main(["slow", "photos"])
    own, _ = written("slow")
    assert own["preset"] == "quick"
    assert "2 CPU cores, without a GPU" in capsys.readouterr().out
    quick = {"mask_rcnn": {"iterations": 77, "learning_rate_steps": [50]}}
    (tmp_path / "config/presets/quick.yaml").write_text(yaml.safe_dump(quick))
    new_dataset.main(["fast", "photos"])
    own, config = written("fast")
    assert own["preset"] == "quick"
    assert "mask_rcnn" not in own  # because the preset sets the schedule
    assert config["mask_rcnn"]["iterations"] == 77
    assert "mask_rcnn starts from random numbers" in capsys.readouterr().out
    machine(GPU)
    new_dataset.main(["paper", "photos", "--preset", "paper"])
    _, config = written("paper")
    assert config["mask_rcnn"]["iterations"] == 24_000
