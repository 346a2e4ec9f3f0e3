import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.mask_rcnn.options import prediction_settings, training_settings


def test_defaults_are_the_papers():
    settings = training_settings({})

    assert (settings.depth, settings.fpn, settings.frozen_stages) == (50, False, 0)
    assert (settings.iterations, settings.batch_size, settings.learning_rate) == (24_000, 16, 0.02)
    assert settings.learning_rate_steps == (20_000, 22_000)
    assert settings.warmup_iterations == 100
    assert (min(settings.train_sides), max(settings.train_sides)) == (480, 800)
    assert prediction_settings({}).shorter_side == 800


def test_neither_kind_takes_keys_of_the_other():
    with pytest.raises(InputError, match=r"candidates\.iterations: no such setting"):
        prediction_settings({"iterations": 5})
    with pytest.raises(InputError, match=r"mask_rcnn\.score_floor: no such setting"):
        training_settings({"score_floor": 0.1})


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(InputError, match=r"mask_rcnn\.iteration: .*'iterations'"):
        training_settings({"iteration": 5})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 34, "weights": "w"}, "18, 50"),
        ({"norm": "layer", "weights": "w"}, "batch, frozen, group"),
        ({"learning_rate": -1, "weights": "w"}, "negative"),
        ({"train_sides": [], "weights": "w"}, "empty"),
        ({"fpn": True, "anchor_sizes": [32, 64], "weights": "w"}, "five levels"),
        ({"fpn": True, "engine": "detectron2", "weights": "w"}, "C4 only"),
        ({"frozen_stages": 1}, "random"),
        ({"norm": "frozen", "frozen_stages": 0}, "random"),
        ({"precision": "half"}, "mask_rcnn.precision: 'half' is not one of float32, bfloat16, fl"),
        ([1], "JSON object"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        training_settings(values)
