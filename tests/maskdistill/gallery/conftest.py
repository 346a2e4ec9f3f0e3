import pytest

from tests import results_tree
from workflow_scripts.maskdistill.gallery.stage_files import Inputs


@pytest.fixture
def inputs(results) -> Inputs:
    return results_tree.gallery_inputs(results)
