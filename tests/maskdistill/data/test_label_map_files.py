import os

from workflow_scripts.maskdistill.data import label_map_files
from workflow_scripts.maskdistill.data.datasets import VOC_CLASSES, VOC_OBJECTS, ListedImage
from workflow_scripts.maskdistill.data.label_map_files import LabelMapFiles

LISTED = [ListedImage(i, f"JPEGImages/{name}") for i, name in enumerate(("a.jpg", "b.c.png", "d"))]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_map_in_any_of_the_folders_is_enough(tmp_path):
    touch(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.c.png", "SegmentationClass/a.png")
    missing = LabelMapFiles(tmp_path).missing(LISTED, VOC_CLASSES)
    assert missing == ["SegmentationClass/b.c.png"]  # the image d itself is missing
    touch(tmp_path, "SegmentationClassAug/b.c.png")
    files = LabelMapFiles(tmp_path)
    assert files.missing(LISTED, VOC_CLASSES) == []
    without_folder = ["SegmentationObject/a.png", "SegmentationObject/b.c.png"]
    assert files.missing(LISTED, [VOC_OBJECTS]) == without_folder


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    touch(tmp_path, *(f"JPEGImages/{number}.jpg" for number in range(50)))
    listed = [ListedImage(number, f"JPEGImages/{number}.jpg") for number in range(50)]
    seen = []
    monkeypatch.setattr(
        label_map_files, "names_in", lambda folder: seen.append(folder.name) or os.listdir(folder)
    )
    (tmp_path / VOC_OBJECTS).mkdir()
    files = LabelMapFiles(tmp_path)
    for _ in range(2):
        assert len(files.missing(listed, [VOC_OBJECTS])) == 50
    assert seen == ["JPEGImages", VOC_OBJECTS]
