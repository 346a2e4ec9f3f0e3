import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

HEADS, SIZE = 3, 8


def object_masks(keys, cls_affinity, grid, **settings):
    """The masks with these settings; by default, sources of further masks may be far from [CLS]."""
    settings = MaskSettings(**{"next_source": 0, **settings})
    return affinity.object_masks(keys, cls_affinity, grid, settings)


def reference(keys, cls_affinity, grid, top_k, heads=None, center_keys=False):
    """Eq. 1 and 2 literally, with the whole N x N matrix, in float64.

    Returns the mask, the source, the number of voters, and the sums that are positive in the mask.
    """
    keys = keys.astype(np.float64)
    count = len(keys)
    if center_keys:
        keys = keys - keys.mean(axis=0, keepdims=True)
    chosen = range(HEADS) if heads is None else heads
    a_cls = sum(cls_affinity[h].astype(np.float64) for h in chosen) / len(chosen)
    by_head = [keys[:, h * SIZE : (h + 1) * SIZE] for h in range(HEADS)]
    matrix = sum(k @ k.T for k in by_head) / HEADS
    ranked = sorted(range(count), key=lambda i: (-a_cls[i], i))
    proposals = ranked[: max(1, int(top_k * count))]
    source = proposals[0]
    voters = [j for j in proposals if matrix[source, j] > 0]
    sums = matrix[voters].sum(axis=0)
    return (sums > 0).reshape(grid), divmod(source, grid[1]), len(voters), sums


def random_keys(rng, count):
    return rng.normal(size=(count, HEADS * SIZE))


def structured_keys(rng, count):
    """Keys of two groups of patches, with noise and a common part as in real backbones."""
    common, group = rng.normal(size=(2, HEADS * SIZE))
    sign = np.where(np.arange(count) % 7 < 3, 1.0, -1.0)[:, None]
    return 0.3 * common + sign * group + 0.5 * rng.normal(size=(count, HEADS * SIZE))


@pytest.mark.parametrize("make", [random_keys, structured_keys])
@pytest.mark.parametrize(
    ("options", "seed"),
    list(
        itertools.product(
            [
                {"top_k": 0.4},
                {"top_k": 0.4, "heads": [0, 2]},
                {"top_k": 0.25, "center_keys": True},
                {"top_k": 1.0, "heads": [1], "center_keys": True},
                {"top_k": 0.0},
            ],
            range(4),
        )
    ),
)
def test_the_linear_form_is_the_whole_matrix(make, options, seed):
    rng = np.random.default_rng(seed)
    grid = (9, 13)
    keys = make(rng, 9 * 13).astype(np.float16)
    cls_affinity = rng.normal(size=(HEADS, 9 * 13)).astype(np.float32)
    mask, source, voters, sums = reference(keys, cls_affinity, grid, **options)
    (found,) = object_masks(keys, cls_affinity, grid, **options)
    assert found.grid.shape == grid
    assert found.grid.dtype == bool
    assert found.source == source
    assert found.proposals == voters
    clear = np.abs(sums).reshape(grid) > 1e-4 * np.abs(sums).max()
    np.testing.assert_array_equal(found.grid[clear], mask[clear])
    assert clear.mean() > 0.98
    assert found.grid[source]


def test_an_object_is_cut_out():
    """Keys of object and background are opposite, and [CLS] has high affinity to the object."""
    rng = np.random.default_rng(0)
    inside = np.zeros((10, 12), dtype=bool)
    inside[2:6, 3:9] = True
    direction = rng.normal(size=HEADS * SIZE)
    keys = np.where(inside.ravel()[:, None], direction, -direction)
    keys = keys + 0.1 * rng.normal(size=keys.shape)
    cls_affinity = np.tile(inside.ravel() + 0.01 * rng.normal(size=120), (HEADS, 1))
    for top_k in (0.01, 0.1, 0.4, 1.0):
        (found,) = object_masks(keys, cls_affinity, inside.shape, top_k=top_k)
        np.testing.assert_array_equal(found.grid, inside)
        assert inside[found.source]
        assert found.proposals == min(max(1, int(top_k * 120)), inside.sum())
    # If all keys have a large common part, the object is only found when it is subtracted.
    shifted = keys + 100
    arguments = (shifted, cls_affinity, inside.shape)
    assert object_masks(*arguments, top_k=0.1)[0].grid.all()
    (found,) = object_masks(*arguments, top_k=0.1, center_keys=True)
    np.testing.assert_array_equal(found.grid, inside)


def test_of_equal_affinities_the_first_patch_wins():
    keys = np.eye(24)[:6]
    cls_affinity = np.zeros((HEADS, 6))
    cls_affinity[:, [2, 4, 5]] = 1
    (found,) = object_masks(keys, cls_affinity, (2, 3), top_k=0.4)
    assert found.source == (0, 2)
    proposals = affinity.select_proposals(cls_affinity[0], 0.7, np.ones(6, bool))
    assert proposals.tolist() == [2, 4, 5, 0]


def test_proposals_come_from_free_patches_only():
    free = np.array([True, False, True, True, False, True])
    values = np.array([1.0, 9.0, 3.0, 2.0, 8.0, 0.0])
    assert affinity.select_proposals(values, 0.5, free).tolist() == [2, 3]
    assert affinity.select_proposals(values, 0.0, free).tolist() == [2]
    assert affinity.select_proposals(values, 1.0, free).tolist() == [2, 3, 0, 5]


def test_a_share_of_the_patches_is_counted_exactly():
    """Compare with integer arithmetic, for shares of whole percents and up to 399 patches."""
    for count in range(1, 400):
        values, free = np.arange(count, dtype=float), np.ones(count, bool)
        for percent in range(101):
            found = affinity.select_proposals(values, percent / 100, free)
            assert len(found) == max(1, percent * count // 100), (percent, count)


def test_the_source_votes_for_itself_even_with_a_key_of_zero():
    keys = np.zeros((4, 2), np.float32)
    assert affinity.similar_to_source(keys, np.array([2, 0, 1])).tolist() == [2]
    keys[:] = [[1, 0], [0, 1], [1, 1], [-1, 0]]
    assert affinity.similar_to_source(keys, np.array([0, 1, 2, 3])).tolist() == [0, 2]


def test_component():
    grid = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 1]], dtype=bool)
    first = np.zeros_like(grid)
    first[0, :2] = True  # the patch at (1, 2) touches this component only at a corner
    np.testing.assert_array_equal(affinity.component_of(grid, 1), first)
    assert np.flatnonzero(affinity.component_of(grid, 11)).tolist() == [11]
    assert not affinity.component_of(grid, 2).any()


def test_only_the_component_of_the_source():
    inside = np.zeros((6, 9), dtype=bool)
    inside[1:3, 1:3], inside[3:5, 6:8] = True, True
    keys = np.where(inside.ravel()[:, None], 1.0, -1.0) * np.ones(4)
    cls_affinity = inside.ravel()[None] * 1.0
    cls_affinity[0, 3 * 9 + 6] = 2  # this patch of the second part becomes the source
    (both,) = object_masks(keys, cls_affinity, (6, 9), top_k=0.1)
    np.testing.assert_array_equal(both.grid, inside)
    (one,) = object_masks(keys, cls_affinity, (6, 9), top_k=0.1, source_component=True)
    inside[1:3, 1:3] = False
    np.testing.assert_array_equal(one.grid, inside)


@pytest.mark.parametrize("component", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_several_masks_do_not_overlap(seed, component):
    rng = np.random.default_rng(seed)
    keys, cls_affinity = rng.normal(size=(70, 24)), rng.normal(size=(HEADS, 70))
    arguments = {"top_k": 0.1, "source_component": component}
    found = object_masks(keys, cls_affinity, (7, 10), per_image=4, **arguments)
    assert 1 < len(found) <= 4
    assert sum(mask.grid.astype(int) for mask in found).max() == 1
    assert all(mask.grid[mask.source] for mask in found)
    a_cls = cls_affinity.mean(axis=0).reshape(7, 10)
    free = np.ones((7, 10), bool)
    for mask in found:  # each source is the patch nearest to [CLS] outside earlier masks
        assert a_cls[mask.source] == a_cls[free].max()
        free &= ~mask.grid
    (first,) = object_masks(keys, cls_affinity, (7, 10), per_image=1, **arguments)
    np.testing.assert_array_equal(first.grid, found[0].grid)


@pytest.mark.parametrize(("next_source", "expected"), [(0.0, 3), (0.5, 2), (0.9, 1)])
def test_a_far_source_ends_the_search(next_source, expected):
    """Three objects, side by side, whose keys are orthogonal to each other."""
    keys = np.repeat(np.eye(4, dtype=np.float32), [2, 2, 2, 14], axis=0)
    cls_affinity = np.repeat([10.0, 8.0, 3.0, 0.0], [2, 2, 2, 14])[None]
    found = object_masks(
        keys, cls_affinity, (1, 20), top_k=0.1, per_image=3, next_source=next_source
    )
    assert [mask.source[1] for mask in found] == [0, 2, 4][:expected]


def test_no_further_mask_when_nothing_is_left():
    found = object_masks(np.ones((6, 4)), np.ones((1, 6)), (2, 3), top_k=0.5, per_image=9)
    assert len(found) == 1
    assert found[0].grid.all()


def test_keys_that_say_nothing_give_an_empty_mask():
    keys, cls_affinity = np.zeros((6, 4)), np.ones((1, 6))
    for per_image in (1, 4):  # with 4, the search must not find the same source again
        (found,) = object_masks(keys, cls_affinity, (2, 3), top_k=0.5, per_image=per_image)
        assert not found.grid.any()


def test_the_keys_given_are_left_alone():
    keys = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    before = keys.copy()
    object_masks(keys, np.ones((1, 6)), (2, 3), top_k=0.5, center_keys=True)
    np.testing.assert_array_equal(keys, before)


def test_heads_that_do_not_exist():
    with pytest.raises(InputError, match=r"masks\.heads \[0, 3\]: .* 0 to 2"):
        affinity.average_heads(np.ones((3, 6)), [0, 3])


@pytest.mark.parametrize("shape", [(7, 4), (6, 4)])
def test_shapes_must_fit(shape):
    with pytest.raises(ValueError, match="for 2 x 3 patches"):
        object_masks(np.ones(shape), np.ones((1, 13 - shape[0])), (2, 3), top_k=0.5)


def test_halves_become_single_precision_bit_by_bit():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    expected = finite.astype(np.float32)
    assert (affinity.single_precision(finite).view(np.uint32) == expected.view(np.uint32)).all()
    for values in (halves, np.float16([1, -np.inf]), np.float16([1, np.nan]), np.empty(0, "f2")):
        np.testing.assert_array_equal(affinity.single_precision(values), values.astype(np.float32))


@pytest.fixture
def big_stays(monkeypatch):
    """A function that sets how many values a tensor may have to be copied to the CPU.

    Copies of larger tensors, such as keys, then fail.
    """
    limit = []

    def guarded(name):
        original = getattr(torch.Tensor, name)

        def call(tensor, *args, **options):
            if limit and tensor.numel() > limit[0]:
                raise AssertionError(f"{name} of {tuple(tensor.shape)}")
            return original(tensor, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, call)

    for name in ("numpy", "cpu", "to", "tolist", "__array__", "__dlpack__"):
        guarded(name)
    yield limit.append
    limit.clear()


def same(found, expected):
    """Whether two lists of masks are equal and the masks have the right types."""
    assert all(type(mask.grid) is np.ndarray and mask.grid.dtype == bool for mask in found)
    assert all(type(number) is int for mask in found for number in (*mask.source, mask.proposals))
    return len(found) == len(expected) and all(
        one.source == other.source
        and one.proposals == other.proposals
        and (one.grid == other.grid).all()
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("top_k", [0.0, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("heads", [None, [0, 2]])
@pytest.mark.parametrize("center_keys", [False, True])
@pytest.mark.parametrize("source_component", [False, True])
@pytest.mark.parametrize(("per_image", "next_source"), [(1, 0.0), (4, 0.0), (4, 0.25)])
def test_masks_of_tensors_are_those_of_arrays(
    big_stays, top_k, heads, center_keys, source_component, per_image, next_source
):
    """Values are small integers, so that sums are exact in any order and there are many ties."""
    options = {
        "top_k": top_k,
        "heads": heads,
        "center_keys": center_keys,
        "source_component": source_component,
        "per_image": per_image,
        "next_source": next_source,
    }
    grid, patches = (4, 8), 32
    big_stays(patches)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        keys = rng.integers(-2, 3, (patches, 24)).astype([np.float16, np.float32][seed % 2])
        cls_affinity = rng.integers(-3, 4, (4, patches)).astype(np.float32)
        expected = object_masks(keys, cls_affinity, grid, **options)
        tensors = torch.from_numpy(keys), torch.from_numpy(cls_affinity)
        assert same(object_masks(*tensors, grid, **options), expected)


@pytest.mark.parametrize("make", [random_keys, structured_keys])
@pytest.mark.parametrize("seed", range(10))
def test_tensors_differ_at_most_where_a_sum_is_as_good_as_zero(big_stays, make, seed):
    rng = np.random.default_rng(seed)
    grid, options = (9, 13), {"top_k": 0.4, "center_keys": seed % 2 == 0}
    keys = make(rng, 9 * 13).astype(np.float16)
    cls_affinity = rng.normal(size=(HEADS, 9 * 13)).astype(np.float32)
    _, source, voters, sums = reference(keys, cls_affinity, grid, **options)
    (expected,) = object_masks(keys, cls_affinity, grid, **options)
    big_stays(len(keys))
    (found,) = object_masks(torch.from_numpy(keys), torch.from_numpy(cls_affinity), grid, **options)
    assert (found.source, found.proposals) == (source, voters)
    clear = np.abs(sums).reshape(grid) > 1e-5 * np.abs(sums).max()
    np.testing.assert_array_equal(found.grid[clear], expected.grid[clear])
    assert clear.mean() > 0.99


def test_keys_that_came_to_the_host_would_be_seen(big_stays):
    big_stays(6)
    keys = torch.zeros(6, 4)
    for bring in (torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.tolist, np.asarray):
        with pytest.raises(AssertionError, match=r"of \(6, 4\)"):
            bring(keys)
    assert not keys.sum(axis=1).numpy().any()


def test_the_tensors_given_are_left_alone():
    keys = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    before = keys.clone()
    object_masks(keys, torch.ones(1, 6), (2, 3), top_k=0.5, center_keys=True)
    assert torch.equal(keys, before)


def test_masks_of_arrays_do_without_torch():
    """Importing torch would take much longer than the start of make_masks does without it."""
    code = (
        "import sys, numpy as np; from workflow_scripts import make_masks; "
        "from workflow_scripts.maskdistill.discovery.affinity import object_masks; "
        "from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings; "
        "object_masks(np.ones((6, 4)), np.ones((1, 6)), (2, 3), MaskSettings()); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def plain_search(keys, cls_affinity, grid, settings):
    """A plain implementation of the paper's search: (mask, source, number of voters) of each."""
    keys = keys.astype(np.float32)
    if settings.center_keys:
        keys -= keys.mean(axis=0)
    nearness = cls_affinity.astype(np.float32).mean(axis=0)
    nearest = nearness.mean() + settings.next_source * (nearness.max() - nearness.mean())
    free, found = np.ones(len(keys), bool), []
    while len(found) < settings.per_image and free.any():
        candidates = np.flatnonzero(free)
        count = max(1, int(round(settings.top_k * len(candidates), 9)))
        proposals = candidates[np.argsort(-nearness[candidates], kind="stable")[:count]]
        if found and nearness[proposals[0]] < nearest:
            break
        to_source = keys[proposals] @ keys[proposals[0]]
        to_source[0] = np.inf
        voters = proposals[to_source > 0]
        mask = ((keys @ keys[voters].sum(axis=0) > 0) & free).reshape(grid)
        if settings.source_component:
            mask = affinity.component_of(mask, proposals[0])
        found.append((mask, divmod(int(proposals[0]), grid[1]), len(voters)))
        if not mask.any():
            break
        free &= ~mask.ravel()
    return found


@pytest.mark.parametrize("make", [random_keys, structured_keys])
@pytest.mark.parametrize("center_keys", [False, True])
@pytest.mark.parametrize("source_component", [False, True])
@pytest.mark.parametrize(("per_image", "enlargement"), [(1, "nearest"), (3, "bilinear")])
def test_the_masks_of_the_paper_stay_the_same_patch_for_patch(
    make, center_keys, source_component, per_image, enlargement
):
    settings = MaskSettings(
        center_keys=center_keys,
        source_component=source_component,
        per_image=per_image,
        enlargement=enlargement,
    )
    for seed in range(6):
        rng = np.random.default_rng(seed)
        keys = make(rng, 9 * 13).astype(np.float16)
        cls_affinity = rng.normal(size=(HEADS, 9 * 13)).astype(np.float32)
        found = affinity.object_masks(keys, cls_affinity, (9, 13), settings)
        expected = plain_search(keys, cls_affinity, (9, 13), settings)
        assert len(found) == len(expected)
        for mask, (grid, source, voters) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mask.grid, grid)
            assert (mask.source, mask.proposals) == (source, voters)
            if enlargement == "nearest":
                assert mask.scores is None
            else:
                np.testing.assert_array_equal(mask.scores > 0, grid)


BEYOND = [
    {"cut": 0.5},
    {"discriminant": True, "cut": 0.3},
    {"scores": "diffusion"},
    {"scores": "diffusion", "border_prior": 1, "discriminant": True, "cut": 0.45},
    {"scores": "diffusion", "diffusion_steps": 5, "center_keys": "auto", "source_component": True},
]


@pytest.mark.parametrize("options", BEYOND)
def test_scores_beyond_the_paper_cut_out_objects_one_after_the_other(options):
    """Two objects and a background, whose keys have a large common part."""
    rng = np.random.default_rng(0)
    first, second = np.zeros((2, 12, 16), bool)
    first[2:6, 2:7], second[7:10, 9:14] = True, True
    centres = 2 * rng.normal(size=(3, HEADS * SIZE))
    kinds = (first + 2 * second).ravel()
    keys = 5 + centres[kinds] + 0.2 * rng.normal(size=(192, HEADS * SIZE))
    cls_affinity = np.tile(first.ravel() + 0.8 * second.ravel(), (HEADS, 1)).astype(np.float32)
    settings = MaskSettings(
        **{
            "center_keys": True,
            "top_k": 0.05,
            "per_image": 2,
            "enlargement": "bilinear",
            **options,
        }
    )
    found = affinity.object_masks(keys, cls_affinity, (12, 16), settings)
    both = np.any([mask.grid for mask in found], axis=0)
    np.testing.assert_array_equal(both, first | second)
    assert not np.all([mask.grid for mask in found], axis=0).any() or len(found) == 1
    for mask in found:
        np.testing.assert_array_equal(mask.scores > 0, mask.grid)


@pytest.mark.parametrize("options", BEYOND)
def test_tensors_have_the_scores_of_arrays(big_stays, options):
    rng = np.random.default_rng(0)
    keys = structured_keys(rng, 9 * 13).astype(np.float16)
    cls_affinity = rng.normal(size=(HEADS, 9 * 13)).astype(np.float32)
    settings = MaskSettings(**{"enlargement": "bilinear", "center_keys": True, **options})
    (expected,) = affinity.object_masks(keys, cls_affinity, (9, 13), settings)
    tensors = torch.from_numpy(keys), torch.from_numpy(cls_affinity)
    big_stays(len(keys))
    (found,) = affinity.object_masks(*tensors, (9, 13), settings)
    assert type(found.scores) is np.ndarray
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)


def test_auto_centres_the_keys_of_images_without_negative_affinities():
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(60, 24)).astype(np.float32)
    opposed = np.where(np.arange(60)[:, None] < 45, keys + 1, keys - 3)
    for values, centred in ((keys + 10, True), (opposed, False)):
        expected = values - values.mean(axis=0) if centred else values
        np.testing.assert_array_equal(affinity.prepare_keys(values, "auto"), expected)
        found = affinity.prepare_keys(torch.from_numpy(values), "auto").numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
