import pytest

from tests import results_tree
from workflow_scripts.maskdistill.gallery.inputs import Inputs


@pytest.fixture
def inputs(results) -> Inputs:
    return results_tree.gallery_inputs(results)
