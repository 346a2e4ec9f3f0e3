import csv
import functools
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools import training_run as module
from workflow_scripts.maskdistill.torch_tools.training_run import Interrupted, publish

training_run = functools.partial(module.training_run, section="mask_rcnn")
CPU = torch.device("cpu")
FINGERPRINT = {"settings": {"learning_rate": 0.1}, "seed": 1}


def test_a_new_run_has_no_checkpoint(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        assert run.load() is None
        assert run.history == []
        assert json.loads((run.directory / "fingerprint.json").read_text()) == FINGERPRINT


def test_a_checkpoint_comes_back_and_the_history_is_cut_to_it(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        run.load()
        for step in (1, 2, 3):
            run.record(step=step, loss=1.0 / step, part=0.5)
            if step == 2:
                run.save({"step": 2, "weights": torch.arange(3.0)})

    with training_run(tmp_path, FINGERPRINT) as run:
        state = run.load()
        assert state["step"] == 2
        assert state["weights"].tolist() == [0, 1, 2]
        assert [row["step"] for row in run.history] == [1, 2]
        run.record(step=3, loss=7.0)
        run.write_history(tmp_path / "history.csv", {})

    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["loss"], row["part"]) for row in rows] == [
        ("1", "1.0", "0.5"),
        ("2", "0.5", "0.5"),
        ("3", "7.0", ""),
    ]


def test_a_half_written_line_of_history_is_dropped(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        run.load()
        run.record(step=1, loss=1.0)
        run.save({"step": 1})
        with open(run.directory / "history.jsonl", "a") as file:
            file.write('{"step": 2, "lo')

    with training_run(tmp_path, FINGERPRINT) as run:
        run.load()
        assert run.history == [{"step": 1, "loss": 1.0}]


def test_history_without_a_checkpoint_is_forgotten(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        run.load()
        run.record(step=1, loss=1.0)

    with training_run(tmp_path, FINGERPRINT) as run:
        assert run.load() is None
        run.record(step=1, loss=2.0)
        run.save({"step": 1})
    with training_run(tmp_path, FINGERPRINT) as run:
        run.load()
        assert run.history == [{"step": 1, "loss": 2.0}]


def test_other_settings_are_another_run_and_key_order_is_not(tmp_path):
    def directory(fingerprint):
        with training_run(tmp_path, fingerprint) as run:
            return run.directory

    assert directory(FINGERPRINT) == directory(dict(reversed(FINGERPRINT.items())))
    assert directory(FINGERPRINT) != directory(FINGERPRINT | {"seed": 2})


def test_a_run_is_exclusive(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        program = (
            "import sys\n"
            "from workflow_scripts.maskdistill.torch_tools.training_run import training_run\n"
            f"with training_run(sys.argv[1], {FINGERPRINT!r}, section='', lock_timeout=0.2): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
        )
        assert other.returncode != 0
        assert f"{run.directory}: another process is training here" in other.stderr
    with training_run(tmp_path, FINGERPRINT):
        pass


def test_the_lock_is_released_when_the_block_fails(tmp_path):
    with pytest.raises(KeyError), training_run(tmp_path, FINGERPRINT):
        raise KeyError
    with training_run(tmp_path, FINGERPRINT):
        pass


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops(tmp_path, loss):
    with training_run(tmp_path, FINGERPRINT) as run:
        run.save({"step": 3})
        with pytest.raises(
            InputError, match=r"at step 4; lower the .*\(mask_rcnn\.learning_rate\)"
        ):
            run.record(step=4, loss=loss)
        assert run.load()["step"] == 3


def test_sigterm_asks_to_stop_and_the_old_handler_comes_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with training_run(tmp_path, FINGERPRINT) as run:
        assert not run.stop_requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.stop_requested
    assert signal.getsignal(signal.SIGTERM) == before
    assert Interrupted().code == 143


def test_a_failing_save_keeps_the_last_checkpoint(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        run.save({"step": 1})
        with pytest.raises((AttributeError, TypeError)):
            run.save({"step": 2, "bad": lambda: None})
        assert run.load()["step"] == 1
        assert not [path for path in run.directory.iterdir() if ".tmp" in path.name]


def test_processes_but_the_first_do_not_write(tmp_path, monkeypatch):
    with training_run(tmp_path, FINGERPRINT) as first:
        first.record(step=1, loss=1.0)
        first.save({"step": 1})
        before = (first.directory / "last.pt").read_bytes()
        monkeypatch.setenv("RANK", "1")
        with training_run(tmp_path, FINGERPRINT) as second:
            assert second.directory == first.directory
            # Only the first process reads; see test_distributed for how it sends the content.
            assert second.load() is None
            second.record(step=2, loss=1.0)
            second.save({"step": 2})
            second.write_history(tmp_path / "history.csv", {})
            publish({"step": 2}, tmp_path / "model.pt")
            with pytest.raises(InputError):
                second.record(step=3, loss=float("nan"))
        assert (first.directory / "last.pt").read_bytes() == before
        assert len((first.directory / "history.jsonl").read_text().splitlines()) == 1
    assert not (tmp_path / "model.pt").exists()
    assert not (tmp_path / "history.csv").exists()


def test_a_published_model_is_loaded_without_pickle(tmp_path):
    publish({"engine": "torchvision", "state_dict": {"w": torch.ones(2)}}, tmp_path / "model.pt")

    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert model["state_dict"]["w"].tolist() == [1, 1]


def test_the_same_model_is_the_same_file(tmp_path):
    for name in ("a.pt", "b.pt"):
        publish({"w": torch.ones(2)}, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.mark.parametrize("call", ["save", "record", "publish"])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, call):
    """A limit on the size of files makes the system raise the error."""
    program = f"""
import resource, torch
from workflow_scripts import cli
from workflow_scripts.maskdistill.torch_tools.training_run import publish, training_run

def main(argv):
    with training_run({str(tmp_path)!r}, {FINGERPRINT!r}, section='') as run:
        run.save({{"step": 1}})
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        big = {{"step": 2, "weights": torch.zeros(100_000)}}
        if {call!r} == "save":
            run.save(big)
        elif {call!r} == "publish":
            publish(big, {str(tmp_path / "model.pt")!r})
        else:
            for step in range(1000):
                run.record(step=step, loss=1.0)

cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    name = {"save": "last.pt", "publish": "model.pt", "record": "history.jsonl"}[call]
    assert line.startswith("error: ")
    assert f"{name}: no space left" in line
    assert not (tmp_path / "model.pt").exists()
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    with training_run(tmp_path, FINGERPRINT) as run:
        assert run.load()["step"] == 1


def parts():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    return {
        "network": network,
        "optimizer": optimizer,
        "scaler": torch.amp.GradScaler("cpu", enabled=False),
    }


def finish(run, found, *, step, last=10, checkpoint_every=4):
    run.end_step(found, step=step, last=last, checkpoint_every=checkpoint_every, device=CPU)


def test_checkpoints_every_few_steps_and_at_the_end(tmp_path):
    found, saved = parts(), []
    with training_run(tmp_path, FINGERPRINT) as run:
        assert run.resume(found) == 0
        for step in range(1, 11):
            finish(run, found, step=step)
            saved.append((run.load() or {"step": 0})["step"])
    assert saved == [0, 0, 0, 4, 4, 4, 4, 8, 8, 10]
    again = parts()
    with training_run(tmp_path, FINGERPRINT) as run:
        assert run.resume(again) == 10
    for name, value in found["network"].state_dict().items():
        assert torch.equal(value, again["network"].state_dict()[name])


def test_who_is_asked_to_stop_saves_and_leaves_unless_all_is_done(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        run.request_stop()
        with pytest.raises(Interrupted):
            finish(run, parts(), step=3)
        assert run.load()["step"] == 3
        finish(run, parts(), step=10)
        assert run.load()["step"] == 10


@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_neither_weights_nor_statistics_that_are_not_finite_are_saved(tmp_path, name):
    found = parts()
    with training_run(tmp_path, FINGERPRINT) as run:
        finish(run, found, step=4)
        found["network"].state_dict()[name].fill_(float("nan"))
        with pytest.raises(InputError, match=r"finite at step 8; lower .*mask_rcnn\.learning_rate"):
            finish(run, found, step=8)
        assert run.load()["step"] == 4


def test_a_run_that_began_without_float16_goes_on_with_it(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        finish(run, parts(), step=4)
        scaler = torch.amp.GradScaler("cpu", enabled=True)
        assert run.resume(parts() | {"scaler": scaler}) == 4
        assert scaler.get_scale() == 65536.0


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    with training_run(tmp_path, FINGERPRINT) as run:
        (run.directory / "last.pt").write_bytes(b"no checkpoint")
        with pytest.raises(InputError, match=r"last\.pt: not a .*; remove it, and") as error:
            run.resume(parts())
        assert "\n" not in str(error.value)
