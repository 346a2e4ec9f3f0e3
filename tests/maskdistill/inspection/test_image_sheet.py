import numpy as np
import pytest

from workflow_scripts.maskdistill.files import images, label_maps
from workflow_scripts.maskdistill.inspection import image_record, image_sheet


@pytest.fixture
def drawn(results):
    """A function that draws an image of the small tree: the sheet, and its size without panels."""

    def draw(name):
        tree, root = results / "results" / "tiny", results / "data" / "tiny"
        split, row = image_record.find_image(tree, name)
        record = image_record.collect(tree, split, row, root, None)
        pixels = images.read_image(root / row["file_name"])
        return image_sheet.draw(record, pixels, [row["file_name"], "a second line"]), record

    return draw


def count(sheet, colour):
    return int((np.abs(sheet.astype(int) - np.array(colour)).sum(axis=-1) < 6).sum())


def test_all_panels_of_an_evaluated_image(drawn):
    sheet, _ = drawn("6.jpg")
    # Image, affinity, sources, masks; candidates, initial masks, Mask R-CNN, segmentation; truth.
    width, height = 180, 120  # 60 x 40 px, three times enlarged
    cell = 200
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 2 * 28 + 4 * cell + 3 * 20
    assert sheet.shape[0] > 3 * (height + 46 + 20)
    top = 28 + 34 + 19 + 14
    first = sheet[top : top + height, 28 : 28 + width]
    # The picture itself: the bright object stands on dark ground.
    assert first[45, 110].mean() > first[110, 10].mean() + 80
    heat = sheet[top : top + height, 28 + cell + 20 :][:height, :width]
    assert heat[45, 110].mean() > heat[110, 10].mean() + 60


def test_the_source_and_the_clusters_are_marked(drawn):
    sheet, record = drawn("6.jpg")
    # Legend: cluster 2, matched with class 1, and the class wear the same colour.
    assert count(sheet, label_maps.PALETTE[1]) > 2 * 13 * 13
    fewer, _ = drawn("0.jpg")
    assert fewer.shape[0] < sheet.shape[0]
    assert record.searches


def test_long_names_and_many_candidates_fit(results, drawn):
    sheet, _ = drawn("5")
    other, _ = drawn("6.jpg")
    assert sheet.shape[1] == other.shape[1]


def test_a_linear_probe_wears_the_colours_of_classes(results, drawn):
    sheet, record = drawn("6.jpg")
    labels = np.where(record.steps["segmentation"] == 2, 2, 0).astype(np.uint8)
    record.steps["linear_probe"] = labels  # class 2 where cluster 2 stands for class 1
    pixels = images.read_image(results / "data" / "tiny" / "JPEGImages" / "6.jpg")
    with_probe = image_sheet.draw(record, pixels, ["6.jpg", "a second line"])
    # One more panel and one more entry of the legend: class dog.
    assert count(with_probe, label_maps.PALETTE[2]) >= count(sheet, label_maps.PALETTE[2]) + 12 * 12
