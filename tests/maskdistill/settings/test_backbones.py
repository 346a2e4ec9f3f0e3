"""Which family a backbone belongs to, and what that decides."""

import pytest
import timm

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings.backbones import (
    FAMILIES,
    decided,
    family_of,
    is_from_timm,
    weights_file,
)
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml
from workflow_scripts.maskdistill.settings.whole_config import dataset_config

CONFIG = {
    "features": {"backbone": "vit_small_patch16_224.dino", "weights": None, "shorter_side": "auto"},
    "embedding": {"backbone": None, "weights": None},
    "seeds": [0],
}


@pytest.mark.parametrize(
    ("backbone", "title"),
    [
        ("vit_small_patch16_224.dino", "DINO"),
        ("vit_base_patch8_224.dino", "DINO"),
        ("vit_small_patch14_dinov2.lvd142m", "DINOv2"),
        ("vit_giant_patch14_dinov2", "DINOv2"),
        ("vit_large_patch14_reg4_dinov2.lvd142m", "DINOv2 with registers"),
        ("vit_small_patch16_dinov3.lvd1689m", "DINOv3"),
        ("vit_small_plus_patch16_dinov3_qkvb.lvd1689m", "DINOv3"),
        ("vit_base_patch16_224.mae", "MAE"),
        ("vit_small_patch16_224.ibot", "iBOT"),
        ("vit_small_patch16_224.mocov3", "MoCo-v3, ViT-S"),
        ("vit_base_patch16_224.mocov3", "MoCo-v3"),
        ("vit_base_patch16_clip_224.openai", "CLIP"),
        ("vit_base_patch16_clip_quickgelu_224.openai", "CLIP"),
        ("vit_tiny_patch16_224", "trained with labels"),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", "trained with labels"),
        ("deit3_small_patch16_224.fb_in1k", "trained with labels"),
        ("resnet50.a1_in1k", None),
    ],
)
def test_the_family_follows_from_the_name(backbone, title):
    family = family_of(backbone)
    assert (family and family.title) == title


def test_every_family_of_timm_has_published_weights_there():
    """A family whose names match nothing would be chosen by nobody."""
    published = timm.list_models(pretrained=True)
    for family in FAMILIES:
        found = [name for name in published if family_of(name) is family]
        assert bool(found) == family.in_timm, family.title


def test_the_statistics_of_a_family_are_timm_s():
    """Those of CLIP and of networks with labels differ from ImageNet's; the table has none."""
    means = {
        name: timm.get_pretrained_cfg(name).mean
        for name in ("vit_base_patch16_clip_224.openai", "vit_tiny_patch16_224")
    }
    assert len({*means.values(), timm.data.IMAGENET_DEFAULT_MEAN}) == 3
    assert not [family for family in FAMILIES if hasattr(family, "mean")]


def test_what_a_family_decides_is_filled_in():
    found = decided(CONFIG)
    assert found["features"] == {
        "backbone": "vit_small_patch16_224.dino",
        "weights": "data/weights/vit_small_patch16_224.dino.safetensors",
        "shorter_side": 640,
    }
    assert found["embedding"] == CONFIG["embedding"]  # the same network: no weights of its own
    assert found["seeds"] == [0]
    assert CONFIG["features"]["weights"] is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"features": {"shorter_side": 384}}, {"shorter_side": 384}),
        ({"features": {"weights": "own.pth"}}, {"weights": "own.pth"}),
        ({"features": {"backbone": "vit_small_patch14_dinov2"}}, {"shorter_side": 448}),
        ({"features": {"backbone": "resnet18"}}, {"shorter_side": 640}),
    ],
)
def test_the_config_goes_over_the_family(change, expected):
    found = decided(merge(CONFIG, change))["features"]
    assert {key: found[key] for key in expected} == expected


def test_a_second_network_has_weights_of_its_own():
    embedding = decided(merge(CONFIG, {"embedding": {"backbone": "resnet50.a1_in1k"}}))["embedding"]
    assert embedding["weights"] == "data/weights/resnet50.a1_in1k.safetensors"
    assert is_from_timm(embedding)


def test_weights_of_the_catalogue_go_before_the_hub():
    listed = [
        "data/weights/vit_small_patch16_224.mocov3.pth.tar",
        "data/weights/vit_small_patch16_224.ibot.pth",
    ]
    assert weights_file("vit_small_patch16_224.mocov3", listed) == listed[0]
    assert weights_file("vit_small_patch16_224.ibot", listed) == listed[1]
    other = weights_file("vit_small_patch16_224", listed)
    assert other == "data/weights/vit_small_patch16_224.safetensors"
    section = {"backbone": "vit_small_patch16_224", "weights": other}
    assert is_from_timm(section, listed)
    assert not is_from_timm({**section, "weights": "mine.pth"}, listed)


def test_trainings_that_timm_does_not_know_are_in_the_catalogue():
    catalogue = read_yaml(REPOSITORY / "resources" / "downloads.yaml")["files"]
    for name in (
        "vit_small_patch16_224.mocov3",
        "vit_base_patch16_224.mocov3",
        "vit_small_patch16_224.ibot",
        "vit_base_patch16_224.ibot",
        "vit_large_patch16_224.ibot",
    ):
        assert not family_of(name).in_timm
        assert weights_file(name, catalogue) in catalogue


@pytest.mark.parametrize("recipe", ["voc2012", "voc2007", "coco20k"])
def test_the_recipes_are_the_paper_s(recipe, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    default = read_yaml(REPOSITORY / "config" / "default.yaml")
    catalogue = read_yaml(REPOSITORY / "resources" / "downloads.yaml")["files"]
    found = dataset_config(
        recipe, default, [REPOSITORY / "config/datasets"], downloadable=catalogue
    )
    assert found["features"]["shorter_side"] == 640
    assert found["features"]["weights"] == "data/weights/dino_deitsmall16_pretrain.pth"
    assert found["masks"]["center_keys"] is False
