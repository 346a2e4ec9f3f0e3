"""Every module of tests gets its own SLURM, because the tests count the jobs in it."""

from collections.abc import Iterator

import pytest

from tests.slurm.controller import Controller


@pytest.fixture(scope="module")
def controller() -> Iterator[Controller]:
    """A running SLURM that only this module of tests uses."""
    controller = Controller()
    try:
        controller.start()
        yield controller
    finally:
        controller.stop()
