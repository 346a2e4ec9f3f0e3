import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.pictures import drawing, overlays


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
