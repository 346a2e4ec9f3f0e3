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


def test_without_detectron2_choosing_it_is_an_error_with_the_remedy():
    program = (
        "import sys; sys.modules['detectron2'] = None\n"
        "from workflow_scripts.maskdistill.errors import InputError\n"
        "from workflow_scripts.maskdistill.mask_rcnn import engines\n"
        "try:\n    engines.engine('detectron2')\nexcept InputError as error:\n    print(error)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    (line,) = done.stdout.splitlines()
    assert "mask_rcnn.engine: Detectron2 cannot be imported here" in line
    assert "envs/detectron2.yaml" in line
    assert "mask_rcnn.engine: torchvision" in line


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
