import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill import streaming
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.mask_rcnn.candidates import candidate_rows


class Halves:
    """A predictor that halves images, finds nothing, and records the images that it gets."""

    def __init__(self):
        self.seen = []

    def input_size(self, size):
        return size[0] // 2, size[1] // 2

    def prepare(self, image):
        return image[::2, ::2]

    def predict_prepared(self, prepared, size):
        self.seen.append((len(prepared), prepared[0].shape[:2], size))
        return [[] for _ in prepared]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_pixels_of_a_pass_do_not_grow_with_the_batch_size(tmp_path, monkeypatch, batch_size):
    monkeypatch.setattr(streaming, "PIXELS_PER_PASS", 3 * 20 * 30)
    rows = []
    for number, size in enumerate([(40, 60)] * 7 + [(200, 100)]):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{number}.png")
        names = ("height", "width")
        row = {"image_id": number, "file_name": f"{number}.png", "shard": 0, "status": "ok"}
        rows.append(row | dict(zip(names, size, strict=True)))
    shards.write_table(tmp_path / "images.parquet", "images", rows, {})
    predictor = Halves()

    found = list(
        candidate_rows(
            tmp_path / "images.parquet", tmp_path, predictor, batch_size=batch_size, workers=3
        )
    )

    assert [row["image_id"] for row in found] == list(range(8))
    most = min(batch_size, 3)
    assert [count for count, *_ in predictor.seen] == [most] * (7 // most) + [1] * (7 % most) + [1]
    assert all(seen == (size[0] // 2, size[1] // 2) for _, seen, size in predictor.seen)
