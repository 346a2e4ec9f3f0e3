import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.segmentation import label_map_prediction
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.torch_tools.training_run import publish

CPU = torch.device("cpu")
ARCHITECTURE = {
    "depth": 18,
    "output_stride": 16,
    "frozen_stages": 0,
    "atrous_rates": [1, 2],
    "head_width": 8,
    "dropout": 0.5,
}


def write_model(path, clusters=4, seed=0):
    torch.manual_seed(seed)
    model = build_deeplab(clusters, **ARCHITECTURE)
    state = {"state_dict": model.state_dict(), "clusters": clusters}
    publish(state | {"settings": ARCHITECTURE | {"weights": "gone.pth", "epochs": 3}}, path)
    return model.eval()


def write_images(root, sizes):
    rng = np.random.default_rng(0)
    rows = []
    for number, (height, width) in enumerate(sizes):
        image = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        Image.fromarray(image).resize((width, height)).save(root / f"{number}.png")
        rows.append(
            {
                "image_id": 100 - number,
                "file_name": f"{number}.png",
                "height": height,
                "width": width,
                "status": "ok",
            }
        )
    return rows


def expected_logits(model, path):
    """One image alone, by plain torch."""
    image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = (image - mean[:, None, None]) / std[:, None, None]
    height, width = image.shape[-2:]
    padded = torch.zeros(1, 3, -(-height // 16) * 16, -(-width // 16) * 16)
    padded[..., :height, :width] = image
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(
            model(padded), size=padded.shape[-2:], mode="bilinear", align_corners=False
        )
    return logits[0, :, :height, :width]


SIZES = [(64, 64), (50, 64), (33, 70), (64, 64), (60, 61), (1, 5)]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_predictions_are_those_of_every_image_alone_at_its_own_size(tmp_path, batch_size):
    model = write_model(tmp_path / "model.pt")
    rows = write_images(tmp_path, SIZES)
    predictor = label_map_prediction.load_predictor(tmp_path / "model.pt", CPU)
    found = list(predictor.predict(rows, tmp_path, batch_size=batch_size, workers=2))
    assert sorted(one.row["image_id"] for one in found) == sorted(r["image_id"] for r in rows)
    for one in found:
        expected = expected_logits(model, tmp_path / one.row["file_name"])
        torch.testing.assert_close(one.logits, expected, rtol=1e-4, atol=1e-4)
        assert one.image.shape == (one.row["height"], one.row["width"], 3)
        np.testing.assert_array_equal(one.labels(), one.logits.argmax(0))
        np.testing.assert_allclose(one.probabilities().sum(0), 1, rtol=1e-5)
        assert one.probabilities().dtype == np.float32


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_predicts_on_the_cpu_too(tmp_path, precision):
    write_model(tmp_path / "model.pt")
    rows = write_images(tmp_path, SIZES[:1])
    found = {}
    for name in ("float32", precision):
        predictor = label_map_prediction.load_predictor(tmp_path / "model.pt", CPU, precision=name)
        (one,) = predictor.predict(rows, tmp_path, batch_size=1, workers=1)
        assert one.logits.dtype == torch.float32
        found[name] = one.logits
    assert not torch.equal(found[precision], found["float32"])
    torch.testing.assert_close(found[precision], found["float32"], rtol=0.1, atol=0.05)
    with pytest.raises(InputError, match=r"predictions\.precision: 'half' is not one of"):
        label_map_prediction.load_predictor(tmp_path / "model.pt", CPU, precision="half")


def test_predictions_are_written_in_the_manifests_order(tmp_path):
    rows = write_images(tmp_path, SIZES[:3])
    maps = {
        row["image_id"]: np.full((row["height"], row["width"]), i) for i, row in enumerate(rows)
    }
    label_map_prediction.write_predictions(
        tmp_path / "p.parquet", rows, reversed(maps.items()), clusters=4, metadata={"a": 1}
    )
    found = list(label_maps.read_shard(tmp_path / "p.parquet"))
    assert [image_id for image_id, _, _ in found] == [row["image_id"] for row in rows]
    for image_id, file_name, labels in found:
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, maps[image_id])
        assert file_name == f"{100 - image_id}.png"
    assert shards.read_metadata(tmp_path / "p.parquet") == {"a": 1}


def test_many_clusters_take_16_bits(tmp_path):
    rows = write_images(tmp_path, [(4, 4)])
    labels = np.full((4, 4), 300)
    label_map_prediction.write_predictions(
        tmp_path / "p.parquet", rows, [(100, labels)], clusters=300, metadata={}
    )
    ((_, _, found),) = label_maps.read_shard(tmp_path / "p.parquet")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, labels)


def test_a_lost_image_is_an_error(tmp_path):
    rows = write_images(tmp_path, SIZES[:2])
    with pytest.raises(InputError, match="missing"):
        label_map_prediction.write_predictions(
            tmp_path / "p.parquet", rows, [(100, np.zeros((64, 64)))], clusters=4, metadata={}
        )
    assert not (tmp_path / "p.parquet").exists()


def test_images_that_changed_since_they_were_listed_are_errors(tmp_path):
    write_model(tmp_path / "model.pt")
    predictor = label_map_prediction.load_predictor(tmp_path / "model.pt", CPU)
    rows = write_images(tmp_path, SIZES[:1])
    Image.new("RGB", (10, 10)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match=r"0\.png: 10 x 10 px, but listed as 64 x 64"):
        list(predictor.predict(rows, tmp_path, batch_size=1, workers=1))
    (tmp_path / "0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png: missing file"):
        list(predictor.predict(rows, tmp_path, batch_size=1, workers=1))


def test_unusable_model_files_are_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        label_map_prediction.load_predictor(tmp_path / "none.pt", CPU)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(
        InputError, match=r"text\.pt: not a readable checkpoint .*; train_segmentation writes it"
    ):
        label_map_prediction.load_predictor(tmp_path / "text.pt", CPU)
    publish({"engine": "torchvision"}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: not a segmentation model"):
        label_map_prediction.load_predictor(tmp_path / "other.pt", CPU)
