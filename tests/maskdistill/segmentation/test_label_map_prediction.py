import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts.maskdistill import streaming
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import image_sizes, label_maps, shards
from workflow_scripts.maskdistill.segmentation import (
    label_map_prediction,
    transforms,
    upsampling,
)
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
    """The logits of one image, without batches, computed with plain torch."""
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


def load(path, **settings):
    return label_map_prediction.load_predictor(path / "model.pt", CPU, **settings)


def test_a_large_photograph_is_seen_at_the_working_resolution(tmp_path):
    """The network and the CRF get a resized image; the label map has the photograph's size."""
    write_model(tmp_path / "model.pt")
    rows = write_images(tmp_path, [(150, 200), (40, 50)])
    found = {
        one.row["image_id"]: one
        for one in load(tmp_path, longer_side=80).predict(rows, tmp_path, batch_size=2, workers=1)
    }
    large, small = found[100], found[99]
    picture = image_sizes.resize(np.array(Image.open(tmp_path / "0.png")), (60, 80))
    np.testing.assert_array_equal(large.image, picture)
    assert large.probabilities().shape == (5, 60, 80)
    assert large.labels().shape == (150, 200)
    assert large.labels().dtype == np.uint16
    present = large.logits.argmax(0).unique()
    expected = torch.nn.functional.interpolate(
        large.logits[None, present], (150, 200), mode="bilinear"
    )
    np.testing.assert_array_equal(large.labels(), present[expected[0].argmax(0)])
    # An image below the bound is predicted as if there were no bound.
    (native,) = load(tmp_path, longer_side=None).predict(
        rows[1:], tmp_path, batch_size=1, workers=1
    )
    assert torch.equal(small.logits, native.logits)
    np.testing.assert_array_equal(small.labels(), native.labels())
    # `predict_image` gives the same logits for the large image.
    alone = load(tmp_path, longer_side=80).predict_image(np.array(Image.open(tmp_path / "0.png")))
    np.testing.assert_allclose(alone.logits, large.logits, rtol=1e-4, atol=1e-4)
    assert alone.labels().shape == (150, 200)


class Local(torch.nn.Module):
    """A model of stride 16, each of whose logits depends only on its own cell of 16 x 16 pixels."""

    output_stride = 16
    cells = 1
    normalize = staticmethod(transforms.normalize)

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, pixels):
        self.seen.append(tuple(pixels.shape))
        mean = torch.nn.functional.avg_pool2d(pixels, 16)
        return torch.cat([mean, mean.flip(1)[:, :2] + 0.1], dim=1)


def local_predictor(**settings):
    return label_map_prediction.Predictor(Local(), 4, CPU, {}, **settings)


@pytest.mark.parametrize("size", [(160, 300), (97, 512), (300, 64), (64, 64), (50, 60)])
def test_tiles_give_what_one_pass_gives(size):
    """The results are equal up to rounding, because no logit depends on other cells."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = local_predictor(longer_side=None, tile=None).predict_image(image)
    predictor = local_predictor(longer_side=None, tile=64)
    tiled = predictor.predict_image(image)
    torch.testing.assert_close(tiled.logits, whole.logits, rtol=1e-5, atol=1e-5)
    assert tiled.labels().shape == size
    assert all(max(shape[2:]) <= 64 for shape in predictor.model.seen)
    if max(size) <= 64:
        assert torch.equal(tiled.logits, whole.logits)


@pytest.mark.parametrize(
    ("length", "side"), [(64, 64), (48, 64), (80, 64), (4000, 1024), (1040, 16)]
)
def test_tiles_cover_the_image_and_overlap(length, side):
    starts = label_map_prediction._starts(length, side, 16)
    assert starts[0] == 0
    assert all(start % 16 == 0 for start in starts)
    assert starts[-1] + side >= length
    if length > side:
        assert starts[-1] + side == length
        steps = np.diff(starts)
        assert steps.min() > 0
        assert steps.max() <= max(16, 0.75 * side + 16)


@pytest.mark.parametrize("batch_size", [1, 8, 100])
@pytest.mark.parametrize("tile", [None, 64])
def test_pixels_of_a_pass_do_not_grow_with_the_batch_size(tmp_path, monkeypatch, batch_size, tile):
    monkeypatch.setattr(streaming, "PIXELS_PER_PASS", 3 * 64 * 64)
    monkeypatch.setattr(label_map_prediction, "PIXELS_PER_PASS", 3 * 64 * 64)
    rows = write_images(tmp_path, [(64, 64)] * 7 + [(60, 130)] * 2)
    predictor = local_predictor(longer_side=None, tile=tile)
    found = list(predictor.predict(rows, tmp_path, batch_size=batch_size, workers=4))
    assert [one.labels().shape for one in found] == [(64, 64)] * 7 + [(60, 130)] * 2
    passes = [(shape[0], np.prod(shape[2:])) for shape in predictor.model.seen]
    assert max(count * pixels for count, pixels in passes) <= 3 * 64 * 64
    assert max(count for count, _ in passes) == min(batch_size if tile is None else 3, 3)


@pytest.mark.parametrize("most_values", [1, 200, 700, 10**6])
def test_the_largest_class_is_found_a_few_classes_at_a_time(most_values):
    scores = torch.randint(0, 4, (7, 10, 12), generator=torch.Generator().manual_seed(0)).float()
    taken = []

    def some(part):
        taken.append(scores[part].numel())
        return scores[part]

    found = upsampling.largest_class(7, (10, 12), some, most_values=most_values)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, scores.numpy().argmax(0))
    assert max(taken) <= max(most_values, 120)


def test_classes_that_an_image_lacks_are_not_enlarged():
    """The result is exact here, because only three classes have the best score anywhere."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(9, 12, 16, generator=generator)
    scores[[2, 4, 8]] += 1
    found = upsampling.enlarged_classes(
        scores.argmax(0).numpy(), (75, 101), lambda some: scores[some]
    )
    expected = upsampling.upsample(scores[None], (75, 101))[0].argmax(0)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)
    assert set(np.unique(found)) == {2, 4, 8}


def test_logits_of_a_reduced_image_are_enlarged_a_few_classes_at_a_time(monkeypatch):
    """Otherwise 200 classes at 1,024 px take 600 MB for one photograph."""
    generator = torch.Generator().manual_seed(0)
    prediction = label_map_prediction.Prediction(
        {},
        (60, 80),
        np.zeros((32, 40, 3), np.uint8),
        torch.rand(50, 4, 5, generator=generator),
        (32, 40),
    )
    expected = upsampling.upsample(prediction.logits[None], (60, 80))[0].argmax(0)
    enlarged = []

    def recorded(logits, size):
        found = upsample(logits, size)
        enlarged.append(found.numel())
        return found

    upsample = upsampling.upsample
    monkeypatch.setattr(upsampling, "upsample", recorded)
    monkeypatch.setitem(upsampling.largest_class.__kwdefaults__, "most_values", 3 * 60 * 80)
    found = prediction.labels()
    assert found.shape == (60, 80)
    # A class that is the largest nowhere at the smaller size may be so between its pixels.
    assert (found == expected.numpy()).mean() > 0.95
    assert max(enlarged) <= 3 * 60 * 80


def test_a_class_beyond_the_range_of_int16_is_found():
    found = upsampling.largest_class(
        40_000, (1, 1), lambda part: torch.arange(40_000.0)[part, None, None], most_values=30_000
    )
    np.testing.assert_array_equal(found, [[39_999]])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.usefixtures("half_precision")
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


@pytest.mark.parametrize("size", [(448, 597), (375, 500), (192, 256), (900, 1199), (44, 61)])
def test_logits_are_resized_to_any_size_of_the_image_without_its_padding(size):
    """Logits that rise evenly over the padded image do so in the result, at the same places."""
    seen, padded = (448, 597), (448, 608)
    stride = 4
    rows, columns = (torch.arange(0, side, stride) + stride / 2 for side in padded)
    logits = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    found = upsampling.upsample_image(logits, seen=seen, padded=padded, size=size)[0]
    assert found.shape == (2, *size)
    for axis in range(2):
        expected = (torch.arange(size[axis]) + 0.5) * seen[axis] / size[axis]
        border = 1 + size[axis] // 20  # beyond the outermost centres of cells, values are constant
        middle = np.s_[border:-border]
        across = found[axis].movedim(axis, -1)[..., middle]
        torch.testing.assert_close(across, expected[middle].expand_as(across), rtol=0, atol=0.1)


def test_probabilities_at_a_smaller_size_are_those_of_the_image():
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    found = local_predictor().predict_image(image)
    small = found.probabilities(65)
    assert small.shape == (5, 45, 65)
    np.testing.assert_allclose(small.sum(0), 1, rtol=1e-5)
    whole = torch.from_numpy(found.probabilities())[None]
    expected = torch.nn.functional.interpolate(whole, (45, 65), mode="bilinear", antialias=True)
    assert (small.argmax(0) == expected[0].numpy().argmax(0)).mean() > 0.95
    assert found.probabilities(130).shape == found.probabilities(999).shape == (5, 90, 130)
