import pytest

from workflow_scripts.maskdistill.runs import variants

CONFIG = {
    "masks": {"top_k": 0.4},
    "clustering": {"clusters": 20},
    "confidence": {"threshold": 0.9},
    "evaluation": {
        "ablations": {
            "top_k": [0.6, 0.2, 0.4],
            "clusters": [40, 20],
            "threshold": [0.5],
            "masks": {"plain": {"center_keys": False, "top_k": 0.2}},
        }
    },
}


def test_every_value_has_a_variant_that_changes_one_thing():
    found = variants.variants(CONFIG)
    assert found["top_k-0.2"] == ({"masks": {"top_k": 0.2}}, "masks")
    assert found["clusters-40"] == ({"clustering": {"clusters": 40}}, "clusters")
    assert found["threshold-0.5"] == ({"confidence": {"threshold": 0.5}}, "confident")
    assert found["all_pixels"] == ({"segmentation": {"hardest_fraction": 1}}, "segmentation")
    assert found["masks-plain"] == ({"masks": {"center_keys": False, "top_k": 0.2}}, "masks")
    assert found["lost"] == found["dino_seg"] == ({}, "masks")


def test_a_sweep_rises_and_takes_the_run_itself_where_it_can():
    assert list(variants.sweep("figure_4", CONFIG).items()) == [
        (0.2, "top_k-0.2"),
        (0.4, variants.MAIN),
        (0.6, "top_k-0.6"),
    ]
    assert variants.sweep("figure_5", CONFIG) == {0.5: "threshold-0.5"}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("top_k-0.2", 5),
        ("masks-plain", 5),
        ("clusters-40", 4),
        ("threshold-0.5", 2),
        ("all_pixels", 1),
        ("boxes", 1),
    ],
)
def test_a_variant_shares_what_comes_before_its_first_stage(name, own):
    variant = variants.variants(CONFIG)[name]
    assert [variants.has_own(variant, stage) for stage in variants.STAGES] == [
        *[False] * (5 - own),
        *[True] * own,
    ]
