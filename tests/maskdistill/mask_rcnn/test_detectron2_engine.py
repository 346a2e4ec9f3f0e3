import numpy as np
import pytest
import torch

from tests.maskdistill.mask_rcnn.conftest import TINY_ENGINES, fit, losses
from workflow_scripts import convert_weights
from workflow_scripts.maskdistill.mask_rcnn import network as torchvision_network
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools.resnet import build_resnet
from workflow_scripts.maskdistill.torch_tools.sampling import Sample
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun
from workflow_scripts.maskdistill.torch_tools.weights import detectron2_names

pytest.importorskip("detectron2", reason="Detectron2 is not installed (docs/paper.md says how)")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402

from workflow_scripts.maskdistill.mask_rcnn import (  # noqa: E402
    detectron2_data,
    detectron2_network,
)

TINY = TINY_ENGINES["detectron2"]


@pytest.fixture(scope="module")
def engine():
    """The engine of all trainings in this module."""
    return "detectron2"


def write_moco(path, depth, *, prefix="module.encoder_q."):
    """Write a checkpoint like those of MoCo, whose normalisation layers have random parameters."""
    generator = torch.Generator().manual_seed(1)
    state = build_resnet(depth).state_dict()
    for name, value in state.items():
        if value.ndim == 1:  # a parameter of a normalisation layer
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
    content = {prefix + name: value for name, value in state.items()}
    content |= {prefix + "fc.0.weight": torch.zeros(4, 4), "module.queue": torch.zeros(2)}
    torch.save({"state_dict": content}, path)
    return state


def registered_names():
    return [name for name in (*DatasetCatalog, *MetadataCatalog) if "maskdistill" in name]


@pytest.mark.parametrize(("depth", "norm"), [(10, "batch"), (18, "frozen"), (50, "batch")])
def test_both_engines_have_the_same_features(tmp_path, depth, norm):
    write_moco(tmp_path / "moco.pth", depth)
    values = {"depth": depth, "norm": norm, "weights": str(tmp_path / "moco.pth")}
    ours = torchvision_network.build_mask_rcnn(MaskRCNNSettings.read(values), 3).eval()
    theirs = detectron2_network.build_mask_rcnn(
        MaskRCNNSettings.read(values | {"engine": "detectron2"}), 3
    ).eval()
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 96, 64), dtype=torch.uint8, generator=generator)

    with torch.inference_mode():
        batch = theirs.preprocess_image([{"image": image}]).tensor
        torch.testing.assert_close(batch, ours._batch([image]).tensors)
        a = ours.backbone(batch)["0"]
        b = theirs.backbone(batch)["res4"]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))
        # The shared head has the same output, too, without the batch normalisation that MoCo's
        # recipe adds after it.
        regions = a[:, :, :4, :4]
        c = ours.roi_heads.box_head(regions)
        d = theirs.roi_heads.res5[:-1](regions)
        torch.testing.assert_close(c, d, rtol=1e-4, atol=1e-5 * float(c.abs().max()))
    assert a.std() > 0


def test_r50_c4_is_that_of_mocos_recipe():
    settings = {"engine": "detectron2", "weights": None, "frozen_stages": 0}
    model = detectron2_network.build_mask_rcnn(MaskRCNNSettings.read(settings), 20)

    names = model.state_dict().keys()
    assert sum(name.startswith("roi_heads.res5.norm.") for name in names) == 5
    assert model.backbone.output_shape()["res4"].channels == 1024
    assert model.proposal_generator.rpn_head.objectness_logits.out_channels == 15
    assert model.proposal_generator.pre_nms_topk == {True: 12_000, False: 6000}
    assert model.proposal_generator.post_nms_topk == {True: 2000, False: 1000}
    shared = model.roi_heads.res5(torch.zeros(2, 1024, 14, 14))
    assert shared.shape == (2, 2048, 7, 7)
    assert model.roi_heads.mask_head.layers(shared).shape == (2, 20, 14, 14)
    assert isinstance(model.roi_heads.res5.norm, torch.nn.BatchNorm2d)


def test_detectron2_itself_loads_converted_weights(tmp_path):
    start = write_moco(tmp_path / "moco.pth", 10)
    options = ["--depth", "10", "--names", "detectron2", "--weights", tmp_path / "moco.pth"]
    convert_weights.main([*map(str, options), "--output", str(tmp_path / "converted.pth")])
    model = detectron2_network.build_mask_rcnn(MaskRCNNSettings.read(TINY), 2)

    DetectionCheckpointer(model).load(str(tmp_path / "converted.pth"))

    state = model.state_dict()
    for name, value in detectron2_names(start).items():
        part = "roi_heads" if name.startswith("res5") else "backbone"
        assert torch.equal(state[f"{part}.{name}"], value), name


@pytest.mark.parametrize("prefix", ["module.encoder_q.", "module.base_encoder."])
def test_initial_weights_are_read_and_frozen_stages_stay(shapes, tmp_path, prefix):
    start = write_moco(tmp_path / "moco.pth", 10, prefix=prefix)

    model = fit(
        "detectron2",
        shapes,
        tmp_path,
        weights=str(tmp_path / "moco.pth"),
        frozen_stages=2,
        iterations=1,
        warmup_iterations=0,
    )["state_dict"]

    frozen = {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.0.conv2.norm.weight": "layer1.0.bn2.weight",
    }
    for name, source in frozen.items():
        assert torch.equal(model[f"backbone.{name}"], start[source]), name
    trained = {
        "backbone.res3.0.conv1.weight": "layer2.0.conv1.weight",
        "backbone.res4.0.shortcut.norm.running_mean": "layer3.0.downsample.1.running_mean",
        "roi_heads.res5.0.conv1.weight": "layer4.0.conv1.weight",
    }
    for name, source in trained.items():
        assert 0 < (model[name] - start[source]).abs().max() < 2, name


def test_a_resumed_training_shows_every_step_once(shapes, uninterrupted, tmp_path, monkeypatch):
    record = TrainingRun.record

    def die_at_four(run, *, step, **values):
        record(run, step=step, **values)
        assert len(set(registered_names())) == 1
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "record", die_at_four)
    with pytest.raises(KeyboardInterrupt):
        fit("detectron2", shapes, tmp_path, checkpoint_every=2)
    monkeypatch.undo()
    assert registered_names() == []

    fit("detectron2", shapes, tmp_path, checkpoint_every=2)

    assert [step for step, _ in event_scalars(tmp_path, "loss")] == [1, 2, 3, 4]
    assert losses(tmp_path) == losses(uninterrupted[1])
    assert registered_names() == []


def event_scalars(folder, name):
    """The (step, value) pairs of tfevents below a folder, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file, *_) = folder.glob("runs/*/events.out.tfevents.*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_losses_and_statistics_go_to_tensorboard(uninterrupted):
    _, folder = uninterrupted

    steps, values = zip(*event_scalars(folder, "loss"), strict=True)
    assert steps == (1, 2, 3, 4)
    assert values == pytest.approx(losses(folder), rel=1e-5)
    rates = [value for _, value in event_scalars(folder, "learning_rate")]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-4])
    assert all(count > 0 for _, count in event_scalars(folder, "roi_head/num_fg_samples"))


def test_examples_are_bitmaps_resized_and_mirrored_with_their_image(shapes):
    path, root = shapes
    settings = MaskRCNNSettings.read(TINY | {"train_sides": [48, 96]})
    with detectron2_data.registered(path, root) as name:
        examples = detectron2_data.RegisteredDataset(name, settings, seed=0)
        drawn = [examples[Sample(step, 0, 1)] for step in range(12)]
        again = examples[Sample(0, 0, 1)]

    assert len(examples) == 12
    assert {example.image.shape for example in drawn} == {(3, 48, 56), (3, 96, 112)}
    # Two sizes, each mirrored or not.
    assert len({bytes(example.masks.numpy()) for example in drawn}) == 4
    for example in drawn:
        bright = example.image.float().amax(0) > 120
        mask = example.masks[0].bool()
        assert (bright & mask).sum() > 0.9 * (bright | mask).sum()
        rows, columns = np.nonzero(mask.numpy())
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(example.boxes[0], edges, atol=1.01)
        assert example.labels.tolist() == [1]
    for a, b in zip(drawn[0], again, strict=True):
        assert torch.equal(a, b)
