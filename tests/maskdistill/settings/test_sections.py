import json

import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings import checks
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings


def test_the_defaults_of_mask_rcnn_are_the_papers():
    settings = MaskRCNNSettings.read({})
    assert (settings.depth, settings.fpn, settings.frozen_stages) == (50, False, 0)
    assert (settings.iterations, settings.batch_size, settings.learning_rate) == (24_000, 16, 0.02)
    assert settings.learning_rate_steps == (20_000, 22_000)
    assert settings.warmup_iterations == 100
    assert (min(settings.train_sides), max(settings.train_sides)) == (480, 800)
    assert CandidateSettings.read({}).shorter_side == 800


def test_neither_kind_takes_keys_of_the_other():
    with pytest.raises(InputError, match=r"unknown key 'candidates\.iterations'"):
        CandidateSettings.read({"iterations": 5})
    with pytest.raises(InputError, match=r"unknown key 'mask_rcnn\.score_floor'"):
        MaskRCNNSettings.read({"score_floor": 0.1})


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(InputError, match=r"'mask_rcnn\.iteration', did you mean 'iterations'"):
        MaskRCNNSettings.read({"iteration": 5})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 11}, "mask_rcnn.depth: 11 should be 10, 18 or 50"),
        ({"norm": "layer"}, "mask_rcnn.norm: 'layer' should be 'batch', 'frozen' or 'group'"),
        ({"learning_rate": -1}, "mask_rcnn.learning_rate: -1 should be greater than 0"),
        ({"train_sides": []}, r"mask_rcnn.train_sides: \[\] should have at least 1 item, not 0"),
        ({"anchor_sizes": [8, 0]}, "mask_rcnn.anchor_sizes.1: 0 should be greater than or equal"),
        ({"fpn": True, "anchor_sizes": [32, 64]}, "mask_rcnn.anchor_sizes: the FPN has five"),
        ({"fpn": True, "engine": "detectron2"}, "mask_rcnn.fpn: the engine detectron2 has C4 only"),
        ({"frozen_stages": 1}, "mask_rcnn: frozen_stages and norm: frozen would freeze random"),
        ({"norm": "frozen", "frozen_stages": 0}, "random"),
        ({"precision": "half"}, "mask_rcnn.precision: 'half' should be 'float32', 'bfloat16'"),
        ({"flip": 1}, "mask_rcnn.flip: 1 should be a valid boolean"),
        ({"iterations": True}, "mask_rcnn.iterations: True should be a valid integer"),
        ({"iterations": "5"}, r"'5' should be a valid integer \(this is text; .* --configfile\)"),
        ({"flip": "false"}, r"'false' should be a valid boolean \(this is text; .* --configfile\)"),
        ({"flip": "maybe"}, "mask_rcnn.flip: 'maybe' should be a valid boolean$"),
        ({"weight_decay": float("nan")}, "mask_rcnn.weight_decay: nan should be"),
        ([1], r"mask_rcnn: \[1\] should be keys and values"),
    ],
)
def test_unsuitable_values_are_refused(values, message):
    with pytest.raises(InputError, match=message) as error:
        MaskRCNNSettings.read(values)
    assert "\n" not in str(error.value)


def test_the_least_share_of_a_mask_is_not_above_the_largest():
    assert MaskSettings.read({"least_share": 0.5, "largest_share": 0.5}).at_pixels is False
    with pytest.raises(InputError, match=r"masks\.least_share: 0\.5 is above masks\.largest_share"):
        MaskSettings.read({"least_share": 0.5, "largest_share": 0.4})


def test_components_are_split_only_where_there_is_room_for_them():
    assert MaskSettings.read({"split_components": True, "per_image": 2}).split_components
    with pytest.raises(InputError, match=r"split_components: masks\.per_image: 1 allows one"):
        MaskSettings.read({"split_components": True})
    both = {"split_components": True, "source_component": True, "per_image": 2}
    with pytest.raises(InputError, match=r"masks\.split_components: masks\.source_component keeps"):
        MaskSettings.read(both)


@pytest.mark.parametrize(
    ("kind", "length", "falls"),
    [
        (MaskRCNNSettings, "iterations", "learning_rate_steps"),
        (SegmentationSettings, "epochs", "learning_rate_milestones"),
        (LinearProbeSettings, "epochs", "learning_rate_milestones"),
    ],
)
def test_a_learning_rate_that_falls_after_the_training_is_a_warning(kind, length, falls):
    assert checks.unreached_falls(kind.read({})) is None
    for values in ((), (0, 8), (9,)):
        assert checks.unreached_falls(kind.read({length: 10, falls: values})) is None
    warning = checks.unreached_falls(kind.read({length: 10, falls: (9, 10, 12)}))
    place = kind.section
    assert warning.startswith(f"warning: {place}.{falls}: the training ends before 10, 12, as ")
    assert f"{place}.{length} is 10," in warning
    assert "\n" not in warning


def test_a_number_stays_as_it_is_written():
    settings = SegmentationSettings.read({"rotation": 10, "scale": [1, 2.0], "dropout": 0})
    assert json.dumps([settings.rotation, settings.scale, settings.dropout]) == "[10, [1, 2.0], 0]"
    assert settings.plain()["scale"] == [1, 2.0]
    assert list(settings.plain()) == list(SegmentationSettings.model_fields)


def test_a_part_has_what_it_was_given_and_nothing_else():
    part = CRFSettings.read_part({"iterations": 3, "min_probability": 0.1})
    assert (part.iterations, part.min_probability) == (3, 0.1)
    assert part.plain() == {"iterations": 3, "min_probability": 0.1}
    for name in CRFSettings.model_fields.keys() - part.plain().keys():
        with pytest.raises(AttributeError, match=name):
            getattr(part, name)


def test_a_part_is_checked_key_by_key():
    with pytest.raises(InputError, match=r"'crf\.iteration', did you mean 'iterations'"):
        CRFSettings.read_part({"iteration": 3})
    with pytest.raises(InputError, match=r"crf\.iterations: 0 should be greater"):
        CRFSettings.read_part({"iterations": 0})
    # Its weights are not told: whether random values are frozen is not known.
    assert SegmentationSettings.read_part({"frozen_stages": 2}).frozen_stages == 2


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        MaskSettings().top_k = 0.5
