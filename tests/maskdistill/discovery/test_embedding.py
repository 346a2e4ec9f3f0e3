import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from workflow_scripts.maskdistill.discovery import embedding
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.sections.embedding import EmbeddingSettings
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_image_and_mask_are_resized_alike():
    mask = np.zeros((20, 30), bool)
    mask[4:12, 6:18] = True
    image, visible = embedding.masked_image(IMAGE, mask, (40, 60))
    assert (image.shape, image.dtype) == ((40, 60, 3), np.uint8)
    np.testing.assert_array_equal(visible, mask.repeat(2, axis=0).repeat(2, axis=1))
    # The resized mask still covers the object in the resized image.
    marked = IMAGE.copy()
    marked[mask], marked[~mask] = 255, 0
    image, visible = embedding.masked_image(marked, mask, (15, 33))
    assert visible.shape == (15, 33)
    assert ((image[..., 0] > 127) == visible).mean() > 0.97


def test_size_unchanged():
    mask = IMAGE[..., 0] > 100
    image, visible = embedding.masked_image(IMAGE, mask, (20, 30))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(visible, mask)


def test_box_crop():
    crop = embedding.box_crop(IMAGE, (5.0, 3.0, 12.0, 12.0), (12, 12))
    np.testing.assert_array_equal(crop, IMAGE[3:15, 5:17])
    assert embedding.box_crop(IMAGE, (0.0, 0.0, 30.0, 20.0), (7, 9)).shape == (7, 9, 3)


def test_masked_crop():
    mask = np.zeros((20, 30), bool)
    mask[3:15, 5:17] = np.tri(12, dtype=bool)
    box = (5.0, 3.0, 12.0, 12.0)
    crop, visible = embedding.masked_crop(IMAGE, mask, box, (12, 12))
    np.testing.assert_array_equal(crop, IMAGE[3:15, 5:17])
    np.testing.assert_array_equal(visible, np.tri(12, dtype=bool))
    crop, visible = embedding.masked_crop(IMAGE, mask, box, (36, 24))
    np.testing.assert_array_equal(crop, embedding.box_crop(IMAGE, box, (36, 24)))
    np.testing.assert_array_equal(
        visible, np.tri(12, dtype=bool).repeat(3, axis=0).repeat(2, axis=1)
    )
    assert visible.dtype == bool


def test_a_crop_is_stretched_to_a_square():
    marked = np.zeros((20, 30, 3), np.uint8)
    marked[4:14, 5:25] = 200
    crop = embedding.box_crop(marked, (5.0, 4.0, 20.0, 10.0), (40, 40))
    # Bicubic interpolation reaches two pixels beyond the border: 8 rows and 4 columns of the crop.
    assert (crop[8:-8, 4:-4] == 200).all()
    assert crop[8:-8].min() > 90
    # A box of one pixel in the image's corner.
    assert (embedding.box_crop(marked, (29.0, 19.0, 1.0, 1.0), (4, 4)) == 0).all()


@pytest.mark.parametrize(
    ("side", "expected"), [(24, (24, 24)), (None, (12, 31))], ids=["square", "own size"]
)
def test_crop_size(side, expected):
    assert embedding.crop_size(12.0, 31.0, side) == expected
    assert embedding.crop_size(0.2, 0.4, None) == (1, 1)


TINY_VIT = {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3, "img_size": 64}


def network(folder, name, options):
    """Settings that name a network of timm, whose random weights are written to a file."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **options)
    path = folder / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    return {"backbone": name, "backbone_options": options, "weights": str(path)}


@pytest.mark.parametrize("own", [False, True], ids=["the features'", "named for the embedding"])
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit3_small_patch16_224"])
def test_vision_transformers_embed_images_of_any_size_whatever_their_name(tmp_path, name, own):
    found = network(tmp_path, name, TINY_VIT)
    if own:
        settings = EmbeddingSettings(**found), FeatureSettings()
    else:
        settings = EmbeddingSettings(), FeatureSettings(**found)
    embedder = embedding.build_embedder(*settings)
    backbone = Backbone(name, options=TINY_VIT, weights=found["weights"])
    assert embedder.embed(embedder.prepare([IMAGE])).shape == (1, 48)
    assert torch.equal(
        embedder.embed(embedder.prepare([IMAGE])), backbone.embed(backbone.prepare([IMAGE]))
    )


def test_convolutional_networks_are_told_by_their_class(tmp_path):
    options = {"channels": [8, 8, 8, 16], "layers": [1, 1, 1, 1]}
    embedder = embedding.build_embedder(
        EmbeddingSettings(**network(tmp_path, "resnet10t", options)), FeatureSettings()
    )
    assert embedder.prepare([IMAGE]).shape == (1, 3, 20, 30)  # no padding, as there are no patches
    assert embedder.embed(embedder.prepare([IMAGE])).shape == (1, 16)


def test_an_architecture_for_one_size_is_one_line(tmp_path):
    options = {"img_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 1]}
    found = network(tmp_path, "swin_tiny_patch4_window7_224", options)
    embedder = embedding.build_embedder(EmbeddingSettings(**found), FeatureSettings())
    with pytest.raises(
        InputError, match=r"embedding\.backbone: .*no images of 20 x 30 px"
    ) as error:
        embedder.embed(embedder.prepare([IMAGE]))
    assert "\n" not in str(error.value)
    square = embedding.box_crop(IMAGE, (0.0, 0.0, 30.0, 20.0), (64, 64))
    assert len(embedder.embed(embedder.prepare([square]))) == 1


def test_an_unknown_name_is_one_line():
    found = {"backbone": "vit_of_nobody", "backbone_options": {}, "weights": None}
    with pytest.raises(InputError, match=r"embedding\.backbone 'vit_of_nobody' cannot be built"):
        embedding.build_embedder(EmbeddingSettings(**found), FeatureSettings())
