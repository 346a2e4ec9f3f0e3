"""If a GPU's memory is full, a program ends with one line that names a remedy; no work is lost."""

import contextlib

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.needs("filelock")]
COUNT = 12


@contextlib.contextmanager
def full(device, monkeypatch, network):
    """Let the next pass of a network run out of memory.

    On a GPU its memory is limited; on a CPU a method is replaced by one that raises the error.

    Args:
        network: class and name of the method to replace on a CPU.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties().total_memory
        # 64 MiB more than PyTorch has reserved so far; a batch or a step needs more.
        limit = torch.cuda.memory_reserved() + 2**26
        torch.cuda.set_per_process_memory_fraction(limit / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    else:

        def fail(*_, **__):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        with monkeypatch.context() as patched:
            patched.setattr(*network, fail)
            yield


@pytest.fixture
def folder(tmp_path):
    from tests.gpu import data

    return data.write(tmp_path, COUNT)


def test_extraction(device, folder, monkeypatch):
    from tests.gpu import data
    from workflow_scripts.maskdistill.discovery.vit import Backbone
    from workflow_scripts.maskdistill.errors import InputError

    settings = {"features": data.settings()["features"] | {"shorter_side": 512}}
    options = {"images": folder / "images.parquet", "root": folder, "device": device}
    options |= {"batch_size": COUNT, "workers": 1, "output": folder / "features.parquet"}
    before = {path.name for path in folder.iterdir()}
    with (
        full(device, monkeypatch, (Backbone, "last_block_features")),
        pytest.raises(InputError, match=r"^out of memory.*lower runtime\.batch_size") as error,
    ):
        data.run("extract_features", settings, **options)
    assert "\n" not in str(error.value)
    assert {path.name for path in folder.iterdir()} == before
    data.run("extract_features", settings, **options)  # afterwards the device works as before


def test_training(device, folder, monkeypatch, judge):
    """A resumed training runs out of memory: its checkpoint is kept and still leads to the end."""
    import torch

    from tests.gpu import data, trainings
    from workflow_scripts.maskdistill.errors import InputError
    from workflow_scripts.maskdistill.segmentation.deeplab import DeepLab
    from workflow_scripts.maskdistill.torch_tools.training_run import Interrupted, TrainingRun

    own = data.settings()["segmentation"] | {"epochs": 5, "batch_size": 3, "crop_size": 128}
    settings = {"segmentation": own, "clustering": {"clusters": data.CLUSTERS}}

    def train(name):
        output = folder / name
        paths = {"model": output / "model.pt", "history": output / "history.csv"}
        options = {"label_maps": folder / "label_maps.parquet", "root": folder, "seed": 0}
        options |= {"work_dir": output / "work", "device": device, "workers": 0}
        data.run("train_segmentation", settings, **options, **paths)

    train("undisturbed")
    record = TrainingRun.record

    def record_and_stop(run, *, step, **values):
        record(run, step=step, **values)
        if step == trainings.STOP:
            run.request_stop()

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "record", record_and_stop)
        with pytest.raises(Interrupted):
            train("disturbed")
    (checkpoint,) = (folder / "disturbed" / "work").glob("*/last.pt")
    kept = checkpoint.read_bytes()
    with (
        full(device, monkeypatch, (DeepLab, "forward")),
        pytest.raises(InputError, match=r"^out of memory.*the last checkpoint is kept") as error,
    ):
        train("disturbed")
    assert "\n" not in str(error.value)
    assert checkpoint.read_bytes() == kept
    assert torch.load(checkpoint, weights_only=True)["step"] == trainings.STOP
    train("disturbed")
    assert (folder / "disturbed" / "model.pt").exists()
    one, two = (trainings.losses(folder / name) for name in ("undisturbed", "disturbed"))
    judge(
        "a training that ran out of memory: error of the first losses",
        abs(one[: trainings.STOP] / two[: trainings.STOP] - 1).max(),
        at_most=1e-2,
    )
    judge(
        "a training that ran out of memory: error of the mean of the last five losses",
        abs(one[-5:].mean() / two[-5:].mean() - 1),
        at_most=0.05,
    )
