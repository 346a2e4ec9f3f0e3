import csv
import json

import pytest
import timm
from safetensors import safe_open

from workflow_scripts import train_demo_backbone
from workflow_scripts.maskdistill.demo import pretraining
from workflow_scripts.maskdistill.torch_tools import resnet, weights


@pytest.mark.parametrize("network", ["transformer", "resnet"])
def test_weights_that_the_workflow_loads(tmp_path, monkeypatch, network):
    recipe, pretrain = train_demo_backbone.NETWORKS[network]
    small = recipe._replace(batch_size=6)  # small batches, because the network takes most time
    monkeypatch.setitem(train_demo_backbone.NETWORKS, network, (small, pretrain))
    output, curve = tmp_path / "weights.safetensors", tmp_path / "curve.csv"
    arguments = ["--network", network, "--output", str(output), "--curve", str(curve)]
    # The least work that is possible: the clips of one batch, and one step.
    arguments += ["--clips", str(small.batch_size), "--steps", "1", "--threads", "1"]
    assert train_demo_backbone.main(arguments) == 0
    with safe_open(output, "pt") as file:
        assert json.loads(file.metadata()["recipe"])["steps"] == 1
    if network == "transformer":
        model = timm.create_model(
            pretraining.BACKBONE, num_classes=0, **pretraining.BACKBONE_OPTIONS
        )
        weights.load_strictly(model, weights.read_state_dict(output), source=output)
    else:
        resnet.build_resnet(pretraining.RESNET_DEPTH, weights=output)
    assert [row["step"] for row in csv.DictReader(curve.open())] == ["0"]
