import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from tests.scripts.test_predict_segmentation import ARCHITECTURE
from workflow_scripts import apply
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.exports import single_images
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.files.masks import encode
from workflow_scripts.maskdistill.mask_rcnn.engines import Candidate
from workflow_scripts.maskdistill.segmentation import label_map_prediction
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.torch_tools.training_run import publish


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    settings = {**ARCHITECTURE, "depth": 10}
    model = build_deeplab(3, **settings)
    content = {"state_dict": model.state_dict(), "settings": settings, "clusters": 3}
    publish(content, tmp_path / "model.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[:20]).save(tmp_path / "side.jpg", exif=exif)
    return tmp_path


def call(folder, *options):
    arguments = [f"--model={folder / 'model.pt'}", f"--output={folder / 'out'}", "--device=cpu"]
    return apply.main([*arguments, *options])


def test_label_maps_and_overlays_of_single_images(folder, capsys):
    assert call(folder, "--image", str(folder / "a.png"), str(folder / "side.jpg")) == 0
    predictor = label_map_prediction.load_predictor(folder / "model.pt", torch.device("cpu"))
    expected = predictor.predict_image(np.array(Image.open(folder / "a.png"))).labels()
    np.testing.assert_array_equal(label_maps.read_png(folder / "out/a.png"), expected)
    assert label_maps.read_png(folder / "out/side.png").shape == (61, 20)
    for name, size in (("a", (61, 37)), ("side", (20, 61))):
        assert Image.open(folder / f"out/{name}_overlay.jpg").size == size
    first, *others = capsys.readouterr().out.splitlines()
    assert "no use.json was found; using float32 and no CRF" in first
    assert len(others) == 2
    assert not list((folder / "out").glob("*.json"))


def test_objects_of_a_mask_rcnn(folder, monkeypatch):
    mask = np.zeros((37, 61), bool)
    mask[5:9, 7:20] = True

    class Predictor:
        def predict(self, images):
            assert [image.shape for image in images] == [(37, 61, 3)]
            box = (7.0, 5.0, 13.0, 4.0)
            return [[Candidate(2, 0.8, box, encode(mask)), Candidate(1, 0.3, box, encode(mask))]]

    seen = {}

    def load(path, *, settings, device):
        seen["side"] = settings.shorter_side
        return Predictor()

    monkeypatch.setattr(single_images.engines, "load_predictor", load)
    (folder / "classes.json").write_text(json.dumps(["x", "y", "z"]))
    settings = {"candidates": {"shorter_side": 64}, "confidence": {"threshold": 0.5}}
    options = ["--image", str(folder / "a.png"), "--mask-rcnn=any.pt"]
    options += [f"--classes={folder / 'classes.json'}", f"--settings={json.dumps(settings)}"]
    assert call(folder, *options) == 0
    found = COCO(folder / "out/a.json")
    (annotation,) = found.anns.values()
    assert found.cats[annotation["category_id"]]["name"] == "y"
    np.testing.assert_array_equal(found.annToMask(annotation), mask)
    assert seen == {"side": 64}
    # --threshold overrides --settings, and --settings overrides use.json.
    use = {"candidates": {"shorter_side": 80}, "confidence": {"threshold": 0.25}}
    (folder / "use.json").write_text(json.dumps(use))
    for more, count in ((["--threshold=0.5"], 1), (["--settings={}"], 2), (["--threshold=1"], 1)):
        assert call(folder, *options, *more) == 0
        assert len(COCO(folder / "out/a.json").anns) == count
    assert seen == {"side": 64}
    call(folder, *options, "--settings={}")
    assert seen == {"side": 80}
    # One object was found as two classes. By default both candidates are kept, as in the paper.
    assert len(COCO(folder / "out/a.json").anns) == 2
    use["confidence"]["overlap"] = 0.5
    (folder / "use.json").write_text(json.dumps(use))
    call(folder, *options, "--settings={}")
    (annotation,) = COCO(folder / "out/a.json").anns.values()
    assert annotation["score"] == 0.8


def test_without_the_runs_settings_objects_are_not_guessed(folder):
    with pytest.raises(InputError, match=r"no use\.json, .*--settings with candidates and conf"):
        call(folder, "--image", str(folder / "a.png"), "--mask-rcnn=any.pt")


def test_crf_and_names_are_those_of_the_run(folder, capsys):
    use = {"predictions": {"precision": "float32"}, "names": ["x", "y", "z"]}
    use["crf"] = {"enabled": True, "iterations": 2}
    models = folder / "seed-0" / "round-0" / "segmentation"
    models.mkdir(parents=True)
    (folder / "model.pt").rename(models / "model.pt")
    (folder / "seed-0" / "use.json").write_text(json.dumps(use))
    options = ["--image", str(folder / "a.png"), f"--model={models / 'model.pt'}"]
    assert call(folder, *options) == 0
    assert " x " in capsys.readouterr().out.replace(":", " ")
    with_crf = label_maps.read_png(folder / "out/a.png")
    assert call(folder, *options, '--settings={"crf": null}') == 0
    assert (label_maps.read_png(folder / "out/a.png") != with_crf).any()


def test_the_crf_on_request(folder):
    settings = {"crf": {"enabled": True, "rounds": 0, "iterations": 2}}
    options = ["--image", str(folder / "a.png"), f"--settings={json.dumps(settings)}"]
    assert call(folder, *options) == 0
    assert label_maps.read_png(folder / "out/a.png").shape == (37, 61)


def test_a_broken_image_is_one_line(folder):
    (folder / "bad.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"bad\.jpg: empty file"):
        call(folder, "--image", str(folder / "bad.jpg"))


def test_two_images_of_one_name(folder):
    with pytest.raises(InputError, match="same name"):
        call(folder, "--image", str(folder / "a.png"), str(folder / "b" / "a.jpg"))


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("name", ["a.png", "a_overlay.jpg", "a.json"])
def test_inputs_are_never_overwritten(folder, name, link):
    """No output may replace an image, the model or the names, even by a link to them."""
    images, options = [str(folder / "a.png")], []
    if name != "a.png":
        (folder / "pictures").mkdir()
        images = [str((folder / "a.png").rename(folder / "pictures" / "a.png"))]
        (folder / "side.jpg").rename(folder / name)
        if name == "a.json":
            options = [f"--classes={folder / name}"]
        else:
            images.append(str(folder / name))
    output = folder
    if link:
        output = folder / "linked"
        output.symlink_to(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=rf"{name}: the output .*choose another folder") as error:
        call(folder, f"--output={output}", *options, "--image", *images)
    assert "\n" not in str(error.value)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
