import pytest

from tests import results_tree
from workflow_scripts.maskdistill.gallery.stage_files import GalleryInputs


@pytest.fixture
def inputs(results) -> GalleryInputs:
    return results_tree.gallery_inputs(results)
