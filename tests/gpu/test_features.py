"""Features in three precisions, masks computed on the GPU, and embeddings."""

import pytest

pytestmark = pytest.mark.gpu
COUNT = 24
# For each precision: bound on the relative error of features, and on the share of patches that are
# as in the masks of float32 on the CPU. On the CPU, float16 and bfloat16 changed less than 0.01 %
# and 0.03 % of the patches of 100 such images. If rounding changes a source, a whole mask may
# change; the bounds allow this for one image.
BOUNDS = {"float32": (1e-4, 0.999), "float16": (1e-2, 0.98), "bfloat16": (5e-2, 0.96)}


@pytest.fixture(scope="module")
def images():
    from tests.gpu import data

    return data.pictures(COUNT)


def backbone_on(device, precision="float32"):
    from tests.gpu import data
    from workflow_scripts.maskdistill.discovery.features import load_backbone
    from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings

    settings = FeatureSettings.read(data.settings()["features"] | {"precision": precision})
    return load_backbone(settings, str(device))


def features_of(backbone, image):
    """Affinities and keys (float16) of one image as extract_features writes them, and the grid."""
    batch = backbone.prepare([image])
    grid = tuple(side // backbone.patch_size for side in batch.shape[2:])
    affinities, keys = backbone.last_block_features(batch)
    return affinities[0], keys[0].half(), grid


def masks_of(features):
    from tests.gpu import data
    from workflow_scripts.maskdistill.discovery import affinity
    from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

    affinities, keys, grid = features
    found = affinity.object_masks(
        keys, affinities, grid, MaskSettings.read(data.settings()["masks"])
    )
    return sum((number + 1) * mask.grid for number, mask in enumerate(found))


def on_host(features):
    affinities, keys, grid = features
    return affinities.cpu().numpy(), keys.cpu().numpy(), grid


@pytest.fixture(scope="module")
def expected(images):
    """Features of all images, computed in float32 on the CPU."""
    backbone = backbone_on("cpu")
    return [on_host(features_of(backbone, image)) for image in images]


@pytest.mark.parametrize("precision", BOUNDS)
def test_features_and_their_masks(device, images, expected, judge, precision):
    import numpy as np

    backbone = backbone_on(device, precision)
    found = [on_host(features_of(backbone, image)) for image in images]
    error, share = BOUNDS[precision]
    for place, name in enumerate(("affinity of [CLS]", "keys")):
        ours, reference = (
            np.concatenate([one[place].ravel().astype(np.float64) for one in features])
            for features in (found, expected)
        )
        relative = np.linalg.norm(ours - reference) / np.linalg.norm(reference)
        # Keys are stored in float16, which rounds them by up to 5e-4.
        bound = max(error, 1e-3) if name == "keys" else error
        judge(f"{name}, {precision}: relative error", relative, at_most=bound)
    agree = [masks_of(one) == masks_of(other) for one, other in zip(found, expected, strict=True)]
    patches = np.concatenate([one.ravel() for one in agree])
    what = f"masks of {COUNT} scenes, {precision}: share of {len(patches)} patches that agree"
    judge(what, patches.mean(), at_least=share)


@pytest.mark.parametrize("precision", BOUNDS)
def test_features_at_full_size(device, judge, precision, tmp_path):
    """ViT-S/16 with random weights; 640 x 864 pixels on a GPU, to test its attention kernels."""
    import numpy as np
    import timm
    import torch
    from safetensors.torch import save_file

    from workflow_scripts.maskdistill.discovery.vit import Backbone

    torch.manual_seed(0)
    name, weights = "vit_small_patch16_224", tmp_path / "weights.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), weights)
    sides = (640, 864) if device.type == "cuda" else (64, 96)
    image = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    results = []
    for where, chosen in (("cpu", "float32"), (device, precision)):
        backbone = Backbone(name, weights=weights, precision=chosen).to(where)
        results.append(
            [
                part.double().cpu()
                for part in backbone.last_block_features(backbone.prepare([image]))
            ]
        )
    for name, reference, found in zip(("affinity of [CLS]", "keys"), *results, strict=True):
        relative = (found - reference).norm() / reference.norm()
        judge(
            f"ViT-S/16, {name}, {precision}: relative error", relative, at_most=BOUNDS[precision][0]
        )


def test_float32_is_not_rounded_to_tf32(device, judge):
    """Errors would be 3e-4 in TF32 (10 bits); in float32 they are 1e-6 (Winograd convolutions)."""
    import torch
    from torch.nn import functional as F

    # Importing this module switches TF32 off.
    import workflow_scripts.maskdistill.torch_tools.device  # noqa: F401

    torch.manual_seed(0)
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    images, kernels = torch.randn(2, 64, 32, 32), torch.randn(64, 64, 3, 3)
    for name, call, operands in (
        ("matrix product", torch.matmul, (left, right)),
        ("convolution", F.conv2d, (images, kernels)),
    ):
        exact = call(*(value.double() for value in operands))
        found = call(*(value.to(device) for value in operands)).double().cpu()
        judge(
            f"{name}, float32: relative error", (found - exact).norm() / exact.norm(), at_most=2e-5
        )


def test_masks_made_on_the_device(device, expected, judge):
    """Masks from the same features, computed on the CPU by NumPy and on the device by torch."""
    import numpy as np
    import torch

    agree = []
    for affinities, keys, grid in expected:
        there = torch.from_numpy(affinities).to(device), torch.from_numpy(keys).to(device), grid
        agree.append((masks_of(there) == masks_of((affinities, keys, grid))).ravel())
    judge(
        "masks made on the device: share of patches", np.concatenate(agree).mean(), at_least=0.9995
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.gpu import data

    return data.write(tmp_path_factory.mktemp("features"), COUNT)


def run(program, folder, device, output, *sections, **options):
    from tests.gpu import data

    settings = {name: data.settings()[name] for name in sections}
    options |= {"images": folder / "images.parquet", "output": folder / output}
    if program != "make_masks":
        options |= {"root": folder, "device": device, "batch_size": 8, "workers": 2}
    data.run(program, settings, **options)
    return folder / output


def test_extract_features_writes_the_same(device, folder, judge):
    import numpy as np

    from workflow_scripts.maskdistill.files import shards

    paths = [
        run("extract_features", folder, x, f"{n}.parquet", "features")
        for n, x in enumerate(("cpu", device))
    ]
    one, two = (list(shards.read_rows(path)) for path in paths)
    assert [row["image_id"] for row in one] == [row["image_id"] for row in two]
    for name in ("cls_affinity", "keys"):
        reference, found = (
            np.concatenate([row[name].astype(np.float64) for row in rows]) for rows in (one, two)
        )
        error = np.linalg.norm(found - reference) / np.linalg.norm(reference)
        judge(f"extract_features, {name}: relative error", error, at_most=1e-3)


@pytest.mark.needs("pycocotools")
def test_extract_masks_and_embed_masks(device, folder, judge):
    """Masks and embeddings on the device, compared with the programs on the CPU."""
    import numpy as np

    from workflow_scripts.maskdistill.files import cluster_files, masks, shards

    features = run("extract_features", folder, "cpu", "features.parquet", "features")
    plain = run("make_masks", folder, "cpu", "plain.parquet", "masks", features=features)
    direct = run("extract_masks", folder, device, "direct.parquet", "features", "masks")
    one, two = (shards.group_by_image(path) for path in (plain, direct))
    assert one.keys() == two.keys()
    agree = []
    for image_id, rows in one.items():
        first, second = (
            np.any([masks.decode_row(row) for row in each if row["status"] == "ok"], axis=0)
            for each in (rows, two[image_id])
        )
        agree.append(np.ravel(first == second))
    judge("extract_masks: share of pixels", np.concatenate(agree).mean(), at_least=0.999)

    sections = ("embedding", "features")
    vectors = []
    for where in ("cpu", device):
        path = run("embed_masks", folder, where, f"{where}-vectors.parquet", *sections, masks=plain)
        _, found = cluster_files.read_embeddings([path])
        vectors.append(found / np.linalg.norm(found, axis=1, keepdims=True))
    cosine = (vectors[0] * vectors[1]).sum(axis=1)
    judge(f"embeddings of {len(cosine)} masks: smallest cosine", cosine.min(), at_least=0.9999)
