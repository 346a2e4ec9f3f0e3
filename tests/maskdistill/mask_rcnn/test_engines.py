import subprocess
import sys

import pytest
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.mask_rcnn import engines
from workflow_scripts.maskdistill.mask_rcnn.settings import PredictionSettings

CPU = torch.device("cpu")


def test_an_unknown_engine_names_the_known_ones():
    with pytest.raises(InputError, match=r"'detectron3'.*torchvision"):
        engines.engine("detectron3")


def test_torchvision_is_imported_only_when_chosen():
    program = (
        "import sys; from workflow_scripts.maskdistill.mask_rcnn import engines;"
        "assert 'torchvision' not in sys.modules;"
        "engines.engine('torchvision'); assert 'torchvision' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such model file"),
        (b"not a model", "damaged"),
        ({"state_dict": {}}, "not a Mask R-CNN model"),
        ({"engine": "torchvision"}, "train it again"),
        ({"engine": "detectron3"}, "no engine"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)

    with pytest.raises(InputError, match=message):
        engines.load_predictor(path, settings=PredictionSettings(), device=CPU)
