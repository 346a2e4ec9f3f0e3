"""A SLURM of its own for every module of tests, whose jobs they count."""

from collections.abc import Iterator

import pytest

from tests.slurm.controller import Controller


@pytest.fixture(scope="module")
def controller() -> Iterator[Controller]:
    """A SLURM of our own."""
    controller = Controller()
    try:
        controller.start()
        yield controller
    finally:
        controller.stop()
