import numpy as np
import pytest

from workflow_scripts.maskdistill.files import masks


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 64)])
def test_round_trip_box_and_area(size, density):
    mask = np.random.default_rng(0).random(size) < density
    encoded = masks.encode(mask)
    assert (encoded.height, encoded.width) == size
    assert isinstance(encoded.rle_counts, bytes)
    decoded = masks.decode(encoded.rle_counts, *size)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)
    assert encoded.area == mask.sum()
    box = (encoded.x, encoded.y, encoded.box_width, encoded.box_height)
    if mask.any():
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert box == (x, y, columns.max() - x + 1, rows.max() - y + 1)
    else:
        assert box == (0, 0, 0, 0)


def test_uint8_masks_encode_like_bool_ones():
    mask = np.random.default_rng(1).random((6, 9)) < 0.5
    assert masks.encode(mask.astype(np.uint8)) == masks.encode(mask)
    assert masks.encode(np.asfortranarray(mask)) == masks.encode(mask)


@pytest.mark.parametrize(
    ("size", "resized", "patch_size"),
    [
        ((37, 53), (32, 46), 8),
        ((21, 21), (50, 50), 7),
        ((100, 31), (65, 20), 16),
        ((5, 3), (5, 3), 1),
        ((43, 32), (40, 30), 1),  # centres that fall exactly on borders
    ],
)
def test_grid_to_image_pixel_by_pixel(size, resized, patch_size):
    shape = tuple(-(-n // patch_size) for n in resized)
    grid = np.random.default_rng(0).integers(0, 100, shape)
    image = masks.grid_to_image(grid, patch_size=patch_size, resized=resized, size=size)
    assert image.shape == size
    assert image.dtype == grid.dtype
    for y in range(size[0]):
        for x in range(size[1]):
            # The centre of the pixel, carried to the resized image in exact arithmetic.
            row = (2 * y + 1) * resized[0] // (2 * size[0] * patch_size)
            column = (2 * x + 1) * resized[1] // (2 * size[1] * patch_size)
            assert image[y, x] == grid[row, column]


def test_padding_leaves_no_trace():
    grid = np.zeros((2, 3), dtype=bool)
    grid[1], grid[:, 2] = True, True  # beyond 8 x 16 resized pixels there is only padding
    image = masks.grid_to_image(grid, patch_size=8, resized=(8, 16), size=(40, 80))
    assert not image.any()


def test_resize_mask():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(masks.resize_mask(labels, (3, 4)), labels)
    doubled = masks.resize_mask(labels, (6, 8))
    np.testing.assert_array_equal(doubled, labels.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(masks.resize_mask(doubled, (3, 4)), labels)


def rows_of(drawn):
    return [masks.encode(mask)._asdict() for mask in drawn]


def test_iou_of_all_pairs_is_that_of_the_pixels():
    rng = np.random.default_rng(0)
    first, second = (rng.random((count, 9, 7)) < 0.4 for count in (3, 4))
    found = masks.iou(rows_of(first), rows_of(second))
    expected = [[(a & b).sum() / (a | b).sum() for b in second] for a in first]
    np.testing.assert_allclose(found, expected)
    assert masks.iou([], rows_of(second)).shape == (0, 4)
    assert masks.iou(rows_of(first), []).shape == (3, 0)


@pytest.mark.parametrize(
    ("size", "resized", "patch_size"),
    [
        ((37, 53), (32, 46), 8),
        ((100, 31), (65, 20), 16),
        ((5, 3), (5, 3), 1),
        ((3, 4), (40, 64), 8),
    ],
)
def test_image_to_grid_pixel_by_pixel(size, resized, patch_size):
    grid = tuple(-(-n // patch_size) + 1 for n in resized)  # with a row and a column of padding
    place = {"patch_size": patch_size, "resized": resized}
    mask = np.random.default_rng(1).random(size) < 0.5
    numbers = masks.grid_to_image(np.arange(grid[0] * grid[1]).reshape(grid), **place, size=size)
    expected = [
        bool((numbers == number).any()) and mask[numbers == number].mean() >= 0.5
        for number in range(grid[0] * grid[1])
    ]
    found = masks.image_to_grid(mask, grid, **place)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, np.reshape(expected, grid))


def test_a_grid_on_the_image_and_back_is_the_grid_without_padding():
    grid = np.random.default_rng(2).random((5, 7)) < 0.5
    place = {"patch_size": 8, "resized": (30, 46)}  # the last row and column are padding
    image = masks.grid_to_image(grid, **place, size=(61, 80))
    grid[4:], grid[:, 6:] = False, False
    np.testing.assert_array_equal(masks.image_to_grid(image, (5, 7), **place), grid)
