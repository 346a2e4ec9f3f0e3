import pytest

from workflow_scripts.maskdistill.demo.clips import Clips, draw_clips


@pytest.fixture(scope="session")
def clips() -> Clips:
    return draw_clips(12, seed=3, workers=1, describe=True)
