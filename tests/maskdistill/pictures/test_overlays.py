import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.files import label_maps, masks
from workflow_scripts.maskdistill.pictures import drawing, overlays

COLOURS = np.array([[0, 0, 0], [200, 10, 10], [0, 0, 0], [10, 10, 200]], np.uint8)


def test_ignored_pixels_and_background_are_not_painted():
    labels = np.array([[0, 1, 255], [2, 2, 3]], np.uint8)
    colours = np.concatenate([COLOURS, np.full((252, 3), 9, np.uint8)])
    assert overlays.shown(labels, colours, (2, 3)).tolist() == [[0, 1, 0], [0, 0, 3]]
    assert overlays.shown(labels, colours, (4, 3)).tolist() == 2 * [[0, 1, 0]] + 2 * [[0, 0, 3]]
    assert overlays.visible(COLOURS[3]).tolist() == [10, 10, 200]
    assert overlays.visible(COLOURS[2]).tolist() == [128, 128, 128]


def test_the_first_row_lies_on_top():
    wide, narrow = np.ones((2, 4), bool), np.zeros((2, 4), bool)
    narrow[:, 1:3] = True
    rows = [masks.encode(mask)._asdict() for mask in (narrow, wide, wide)]
    rows.append({"rle_counts": None})
    painted = overlays.paint_rows((2, 4), rows, [2, 1, 0, 3], 300)
    assert painted.dtype == np.uint16
    assert painted.tolist() == 2 * [[1, 2, 2, 1]]


def test_candidates_are_ranked():
    rows = [(0, 0.2), (2, 0.7), (1, 0.7), (None, None)]
    rows = [{"candidate_id": number, "score": score} for number, score in rows]
    assert [row["candidate_id"] for row in overlays.ranked(rows)] == [1, 2, 0]


def test_an_overlay_is_a_jpeg_of_the_images_size(tmp_path):
    image = np.full((32, 48, 3), 200, np.uint8)
    labels = np.zeros((32, 48), np.uint8)
    labels[8:24, 8:24] = 2
    overlays.write_overlay(image, labels, tmp_path / "sub" / "a.jpg")
    with Image.open(tmp_path / "sub" / "a.jpg") as written:
        assert (written.format, written.size) == ("JPEG", (48, 32))
        found = np.asarray(written).astype(int)
    expected = drawing.overlay(image, labels, label_maps.colours(np.arange(3)))
    assert np.abs(found - expected).mean() < 3
    assert found[16, 16, 1] > found[16, 16, 0] + 30  # label 2 is green
