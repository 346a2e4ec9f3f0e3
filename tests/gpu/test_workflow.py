"""A small dataset through the whole workflow with `runtime.device: cuda`."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.needs("snakemake.cli", "faiss", "pycocotools", "pydensecrf", "filelock"),
]
SCENES = {"train": 14, "val": 6, "seed": 7}


def test_whole_workflow(device, judge, tmp_path, monkeypatch):
    import torch

    from tests.rules.conftest import SMALL, Workflow, logs, write_backbone
    from workflow_scripts.maskdistill.repository import REPOSITORY

    runtime = {"device": str(device), "threads": 1}
    overrides = SMALL | {"dataset": {"generate": SCENES}, "shards": 1, "crf": {"rounds": 0}}
    write_backbone(tmp_path / "backbone.pth")
    workflow = Workflow(tmp_path, ["demo"], overrides)
    done = workflow.snakemake("all", runtime=runtime)
    assert done.returncode == 0, done.stdout[-6000:] + logs(tmp_path)
    assert workflow.stale("all", runtime=runtime) == {}
    base = tmp_path / "results" / "demo"
    assert (base / "report.html").stat().st_size > 10_000
    for path in sorted(base.glob("seed-0/**/model.pt")):
        record = torch.load(path, weights_only=True)["provenance"]
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        assert record["device"] == name, path
    # `verify` must find no difference between the outputs and what the config describes.
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "workflow_scripts.verify", "demo"]
    command += ["--configfile", str(tmp_path / "trial.yaml")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((base / "seed-0" / "metrics.json").read_text())["steps"]
    for name, step in steps.items():
        if step.get("miou") is not None:
            judge(f"whole workflow, {name}: mIoU", step["miou"])
    monkeypatch.chdir(tmp_path)  # paths of weights are relative to this folder
    compare_masks(judge, tmp_path)


def compare_masks(judge, folder):
    """Compare the workflow's masks with masks that the CPU computes from the same images."""
    import numpy as np

    from tests.gpu import data
    from workflow_scripts.maskdistill.files import masks, shards

    base = folder / "results" / "demo" / "train"
    (manifest,), (made,) = (sorted((base / name).glob("*.parquet")) for name in ("images", "masks"))
    settings = shards.read_metadata(made)["settings"]
    features = shards.read_metadata(next((base / "features").glob("*.parquet")))["settings"]
    data.run(
        "extract_masks",
        {**features, **settings},
        images=manifest,
        root=folder / "data" / "demo",
        output=folder / "cpu.parquet",
        device="cpu",
    )
    one, two = (shards.group_by_image(path) for path in (made, folder / "cpu.parquet"))
    assert one.keys() == two.keys()
    agree = [
        masks.decode_row(row) == masks.decode_row(other)
        for image_id, rows in one.items()
        for row, other in zip(rows, two[image_id], strict=False)
        if row["status"] == other["status"] == "ok"
    ]
    share = np.concatenate([pixels.ravel() for pixels in agree]).mean()
    judge("whole workflow, initial masks: share of pixels as on the CPU", share, at_least=0.99)
