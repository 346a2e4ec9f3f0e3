"""The device under test, skipping of tests that cannot run, and recording of measurements.

Environment variables:

MASKDISTILL_GPU_DEVICE: device to compare with the CPU, `cuda` if not set. With `cpu`, the CPU is
compared with itself, which only tests the tests.
MASKDISTILL_GPU_RECORD: file to which one JSON object per test is appended, for `tests.gpu.verdict`.
"""

import importlib
import json
import os
import platform
from collections.abc import Callable, Iterator

import pytest

DEVICE = os.environ.get("MASKDISTILL_GPU_DEVICE", "cuda")
RECORD = os.environ.get("MASKDISTILL_GPU_RECORD")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow_in_half: only in float32 if the device is a CPU")
    config.addinivalue_line("markers", "needs(*modules): skipped if one is not installed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test if there is no GPU, or if a library is missing."""
    if not available():
        pytest.skip("no CUDA GPU")
    slow = item.get_closest_marker("slow_in_half") and "float16" in item.name
    if DEVICE == "cpu" and slow:
        pytest.skip("a CPU emulates half precision, which takes minutes")
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            try:
                importlib.import_module(name)
            except ImportError as error:  # the library or one of its own dependencies is missing
                pytest.skip(f"{name} is not installed ({error})")


def available() -> bool:
    """Whether this machine has the device under test."""
    import torch

    return DEVICE == "cpu" or torch.cuda.is_available()


@pytest.fixture(scope="session")
def device():
    """The torch device under test."""
    from workflow_scripts.maskdistill.torch_tools.device import choose_device

    return choose_device(DEVICE)


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that records a measurement; the test fails at its end if it exceeds its bound.

    Call judge(what, value, at_most=…) or judge(what, value, at_least=…), or judge(what, value) to
    record a value without a bound.
    """

    def report(
        what: str, value: float, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        value = float(value)
        kept = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        bound = ""
        if at_most is not None or at_least is not None:
            bound = f"≤ {at_most:g}" if at_least is None else f"≥ {at_least:g}"
        row = {"what": what, "value": value, "bound": bound, "kept": kept}
        request.node.user_properties.append(("measured", row))
        print(f"{what}: {value:.6g} {bound}", flush=True)

    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a test, and let it fail if measurements exceeded their bounds; lists all of these."""
    result = yield
    broken = [row for row in measured(item) if not row["kept"]]
    text = "; ".join(f"{row['what']}: {row['value']:.6g}, not {row['bound']}" for row in broken)
    assert not broken, text
    return result


def measured(item: pytest.Item | pytest.TestReport) -> list[dict]:
    """The measurements that a test gave to `judge`."""
    return [row for name, row in item.user_properties if name == "measured"]


def pytest_sessionstart(session: pytest.Session) -> None:
    if RECORD:
        _append({"machine": machine()})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the result of a test: its measurements, or why it was skipped or failed."""
    if not RECORD or (report.when != "call" and report.outcome == "passed"):
        return
    reason = ""
    if report.outcome == "skipped":
        reason = report.longrepr[2].removeprefix("Skipped: ")
    elif report.outcome == "failed":
        reason = str(getattr(report.longrepr, "reprcrash", "") or report.longrepr)
    _append(
        {
            "test": report.nodeid.rpartition("::")[2],
            "outcome": report.outcome,
            "reason": " ".join(reason.split())[:300],
            "seconds": round(report.duration, 1),
            "measured": measured(report),
        }
    )


def machine() -> dict[str, str]:
    """Device and versions with which the tests run."""
    import torch

    found = {"device": DEVICE, "PyTorch": torch.__version__, "Python": platform.python_version()}
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["GPUs"] = str(torch.cuda.device_count())
        found["CUDA"] = str(torch.version.cuda)
    return found


def _append(row: dict) -> None:
    with open(RECORD, "a") as file:
        file.write(json.dumps(row) + "\n")
