import pytest
import torch

from tests.maskdistill.mask_rcnn.conftest import TINY_ENGINES, fit
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.mask_rcnn import fitting
from workflow_scripts.maskdistill.mask_rcnn.network import build_mask_rcnn
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools.resnet import build_resnet
from workflow_scripts.maskdistill.torch_tools.training_run import fingerprint_text

TINY = TINY_ENGINES["torchvision"]


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "module.base_encoder."])
def test_initial_weights_are_read_and_frozen_stages_stay(shapes, tmp_path, prefix):
    torch.manual_seed(1)
    resnet = build_resnet(18).state_dict()
    state = {prefix + name: value for name, value in resnet.items()}
    if prefix:  # MoCo's checkpoints also contain its projector
        state[prefix + "fc.0.weight"] = torch.zeros(4, 4)
    torch.save({"state_dict": state}, tmp_path / "moco.pth")

    model = fit(
        "torchvision",
        shapes,
        tmp_path,
        weights=str(tmp_path / "moco.pth"),
        norm="batch",
        frozen_stages=2,
        iterations=1,
        warmup_iterations=0,
    )["state_dict"]

    frozen, trained = ("conv1.", "bn1.", "layer1."), ("layer2.", "layer3.", "layer4.")
    for name, value in resnet.items():
        same = torch.equal(model[f"backbone.body.{name}"], value)
        if name.startswith(frozen):
            assert same, name
        elif name.startswith(trained) and name.endswith("conv1.weight"):
            difference = (model[f"backbone.body.{name}"] - value).abs().max()
            assert 0 < difference < 0.01, name


def test_a_fingerprint_names_weights_by_content(shapes, tmp_path):
    def digest(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        settings = MaskRCNNSettings.read(TINY | {"weights": str(path)})
        return fingerprint_text(fitting.fingerprint(shapes[0], settings=settings, seed=0))

    assert digest("a.pth", b"1") == digest("b.pth", b"1")
    assert digest("a.pth", b"1") != digest("a.pth", b"2")


def test_the_number_of_processes_is_in_detectron2s_fingerprint_alone(shapes, monkeypatch):
    def fingerprint(engine, processes):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        settings = MaskRCNNSettings.read(TINY | {"engine": engine, "fpn": False, "norm": "batch"})
        return fitting.fingerprint(shapes[0], settings=settings, seed=0)

    assert fingerprint("torchvision", 1) == fingerprint("torchvision", 2)
    assert fingerprint("detectron2", 1) != fingerprint("detectron2", 2)
    assert fingerprint("detectron2", 2) != fingerprint("detectron2", 4)


def test_learning_rate_is_warmed_up_and_lowered_at_the_steps():
    settings = MaskRCNNSettings.read({"weights": "moco.pth"})

    rates = [fitting.learning_rate(settings, s) for s in (0, 49, 99, 19_999, 20_000, 22_000)]

    assert rates == pytest.approx([0.0002, 0.01, 0.02, 0.02, 0.002, 0.0002])


def test_normalisation_is_spared_weight_decay():
    settings = MaskRCNNSettings.read(TINY | {"optimizer": "sgd", "weight_decay": 0.1})
    network = build_mask_rcnn(settings, 2)

    decayed, spared = fitting.build_optimizer(network, settings).param_groups

    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    norms = [
        p for m in network.modules() if isinstance(m, torch.nn.GroupNorm) for p in [*m.parameters()]
    ]
    assert {id(p) for p in spared["params"]} == {id(p) for p in norms}
    assert len(decayed["params"]) + len(norms) == len(list(network.parameters()))


def test_a_diverging_training_stops_with_its_checkpoint(shapes, tmp_path):
    with pytest.raises(InputError, match="lower the learning rate"):
        fit(
            "torchvision",
            shapes,
            tmp_path,
            optimizer="sgd",
            learning_rate=1e12,
            warmup_iterations=0,
            checkpoint_every=1,
        )
    assert not (tmp_path / "model.pt").exists()
    assert len(list((tmp_path / "runs").glob("*/last.pt"))) == 1
