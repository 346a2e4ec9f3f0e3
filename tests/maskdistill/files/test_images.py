import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import images
from workflow_scripts.maskdistill.files.images import (
    ImageRejected,
    bounded_size,
    probe_image,
    read_image,
    read_listed,
    resize,
)

# Four flat quadrants, too large for JPEG to smear them: what each orientation does is plain.
COLOURS = np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]], dtype=np.uint8)
QUADRANTS = COLOURS.repeat(16, axis=0).repeat(24, axis=1)  # 32 x 48
# What is stored, seen from what is meant: EXIF 2.32, tag Orientation.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def save(path, array, **options):
    Image.fromarray(np.ascontiguousarray(array)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", STORED[orientation](QUADRANTS), exif=exif)
    assert probe_image(path) == (32, 48)
    pixels = read_image(path)
    assert pixels.shape == (32, 48, 3)
    assert pixels.dtype == np.uint8
    centres = pixels[[[8], [24]], [[12, 36]]]
    np.testing.assert_allclose(centres.astype(int), COLOURS.astype(int), atol=12)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_listed_image_is_resized_upright(tmp_path, monkeypatch, orientation, suffix):
    """A JPEG is decoded at a fraction of its size, and its listed size is still checked."""
    monkeypatch.setattr(images, "DRAFT_PIXELS", 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = QUADRANTS.repeat(8, axis=0).repeat(8, axis=1)
    path = save(tmp_path / f"a.{suffix}", STORED[orientation](large), exif=exif)
    pixels = read_listed(path, (256, 384), (32, 48))
    assert pixels.shape == (32, 48, 3)
    once = resize(read_listed(path, (256, 384)), (32, 48))
    difference = abs(pixels.astype(int) - once)
    assert difference.mean() < 1
    assert difference.max() < 20  # at the sharp borders of colours
    if suffix == "png":
        np.testing.assert_array_equal(pixels, once)
    with pytest.raises(InputError, match="256 x 384 px, but listed as 384 x 256"):
        read_listed(path, (384, 256), (48, 32))


@pytest.mark.parametrize("pixels", [0, 2**21])
def test_a_jpeg_that_is_small_or_resized_a_little_is_decoded_whole(tmp_path, monkeypatch, pixels):
    monkeypatch.setattr(images, "DRAFT_PIXELS", pixels)
    rng = np.random.default_rng(0)
    path = save(tmp_path / "a.jpg", rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    for size in [(90, 120), (200, 260), (45, 60), (31, 41)] + [(9, 12)] * bool(pixels):
        np.testing.assert_array_equal(
            read_listed(path, (90, 120), size), resize(read_image(path), size)
        )


@pytest.mark.parametrize(
    ("size", "longer_side", "expected"),
    [
        ((30, 40), None, (30, 40)),
        ((30, 40), 40, (30, 40)),
        ((3000, 4000), 1024, (768, 1024)),
        ((4000, 3000), 1024, (1024, 768)),
        ((10, 9000), 900, (1, 900)),
        ((1, 9000), 90, (1, 90)),
    ],
)
def test_bounded_size(size, longer_side, expected):
    assert bounded_size(*size, longer_side) == expected


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "CMYK", "RGBA"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_uncompressed_tiff(tmp_path, orientation, mode):
    """Pillow maps these modes into memory where it can."""
    gray = np.array([[40, 110], [180, 250]], dtype=np.uint8)
    upright = gray.repeat(16, axis=0).repeat(24, axis=1)[..., None]
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)[..., 0]))
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(stored).astype(np.uint16) * 257)
    else:
        stored = stored.convert("RGB" if mode == "CMYK" else "L").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.tif", exif=exif)
    assert Image.open(tmp_path / "a.tif").mode == mode
    assert probe_image(tmp_path / "a.tif") == (32, 48)
    pixels = read_image(tmp_path / "a.tif")
    assert pixels.shape == (32, 48, 3)
    np.testing.assert_allclose(pixels[[[8], [24]], [[12, 36]], 1].astype(int), gray, atol=1)


def test_grayscale_bilevel_and_palette(tmp_path):
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    pixels = read_image(save(tmp_path / "gray.png", gray))
    np.testing.assert_array_equal(pixels, np.repeat(gray[..., None], 3, axis=2))

    bits = gray > 100
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert Image.open(tmp_path / "bits.png").mode == "1"
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[..., 1], bits * 255)

    indices = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png")
    expected = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], dtype=np.uint8)[indices]
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), expected)

    palette.save(tmp_path / "transparent.png", transparency=1)
    expected[indices == 1] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "transparent.png"), expected)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_composited_over_white(tmp_path, channels):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (5, 7, channels), dtype=np.uint8)
    array[0, 0, -1], array[0, 1, -1] = 0, 255
    pixels = read_image(save(tmp_path / "a.png", array))
    colour = array[..., :-1].astype(float)
    alpha = array[..., -1:] / 255
    expected = np.broadcast_to(colour * alpha + 255 * (1 - alpha), (5, 7, 3))
    np.testing.assert_allclose(pixels, expected, atol=1)
    assert (pixels[0, 0] == 255).all()


def test_cmyk_jpeg(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    image.save(tmp_path / "a.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "a.jpg")[8, 8].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grayscale_keeps_its_range(tmp_path, suffix):
    array = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    pixels = read_image(save(tmp_path / f"a.{suffix}", array))
    np.testing.assert_allclose(pixels[..., 0], array / 257, atol=1)
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    # A dark image stays dark: it is not stretched to its own range.
    assert read_image(save(tmp_path / f"b.{suffix}", array // 16)).max() <= 16


def test_float_tiff(tmp_path):
    array = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    np.testing.assert_allclose(
        read_image(save(tmp_path / "unit.tif", array))[..., 0], array * 255, atol=1
    )
    np.testing.assert_allclose(
        read_image(save(tmp_path / "bytes.tif", array * 200))[..., 0], array * 200, atol=1
    )
    array[0, 0] = np.nan
    array[0, 1] = np.inf
    assert read_image(save(tmp_path / "holes.tif", array)).shape == (6, 8, 3)


def test_first_frame_of_an_animation_and_no_gif(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(tmp_path / "a.webp")[0, 0].tolist() == [255, 0, 0]
    assert ".gif" not in images.SUFFIXES


def both_reject(path, match, **limits):
    for function in (probe_image, read_image):
        with pytest.raises(ImageRejected, match=match) as rejection:
            function(path, **limits)
        assert "\n" not in str(rejection.value)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.png").touch()
    both_reject(tmp_path / "empty.png", "empty file")
    (tmp_path / "text.png").write_text("not an image\n")
    both_reject(tmp_path / "text.png", "known format")
    both_reject(tmp_path / "absent.png", "missing")
    (tmp_path / "folder.png").mkdir()
    both_reject(tmp_path / "folder.png", "unreadable")


def outcome(function, path):
    try:
        result = function(path, max_pixels=10**6)
    except ImageRejected:
        return "rejected"
    return result if isinstance(result, tuple) else result.shape[:2]


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg(tmp_path, progressive):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="JPEG", progressive=progressive)
    data = buffer.getvalue()
    path = tmp_path / "a.jpg"
    for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99):
        path.write_bytes(data[: int(len(data) * share)])
        both_reject(path, "truncated|unreadable|known format")
    for missing in range(1, 40):  # near the end, decoders differ in what they forgive
        path.write_bytes(data[:-missing])
        assert outcome(probe_image, path) == outcome(read_image, path)
    path.write_bytes(data)
    assert probe_image(path) == (97, 131)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.filterwarnings("ignore")
def test_probe_and_read_agree_on_damaged_files(tmp_path, suffix):
    """Whatever the damage: no other exception, and no image that passes and then fails."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if suffix == "bmp" else {"exif": exif}
    data = save(tmp_path / f"a.{suffix}", QUADRANTS, **options).read_bytes()
    path = tmp_path / f"damaged.{suffix}"
    for trial in range(150):
        rng = np.random.default_rng(trial)
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, min(len(data), 250), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        assert outcome(probe_image, path) == outcome(read_image, path), trial


def test_damaged_exif_is_a_rejection(tmp_path):
    path = save(tmp_path / "a.jpg", QUADRANTS, exif=b"Exif\0\0XX\0\0not TIFF at all")
    assert outcome(probe_image, path) == outcome(read_image, path)


def test_limits_on_the_size(tmp_path):
    one = save(tmp_path / "one.png", np.full((1, 1, 3), 7, np.uint8))
    assert probe_image(one) == (1, 1)
    assert read_image(one).tolist() == [[[7, 7, 7]]]
    both_reject(one, re.escape("too small: 1 x 1 px (images.min_side is 2)"), min_side=2)
    path = save(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))
    assert probe_image(path, max_pixels=200) == (10, 20)
    both_reject(path, "too large: 10 x 20 px .*199", max_pixels=199)


def test_an_oversized_image_is_not_decoded(tmp_path):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    # The header promises 30000 x 30000 pixels; there is no data to decode.
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    (tmp_path / "a.png").write_bytes(data)
    both_reject(tmp_path / "a.png", "too large", max_pixels=10**8)


def test_names_with_spaces_and_other_scripts(tmp_path):
    path = save(tmp_path / "ein Bild – 写真.png", QUADRANTS)
    assert probe_image(path) == (32, 48)
    np.testing.assert_array_equal(read_image(path), QUADRANTS)


def test_resized_size():
    assert images.resized_size(480, 640, shorter_side=240) == (240, 320)
    assert images.resized_size(640, 480, shorter_side=960) == (1280, 960)
    assert images.resized_size(100, 5000, shorter_side=640, longer_side=2560) == (51, 2560)
    assert images.resized_size(1, 100000, shorter_side=640, longer_side=2560) == (1, 2560)
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 3000, (200, 2)).tolist():
        size = images.resized_size(height, width, shorter_side=224)
        assert min(size) == 224
        assert abs(size[0] * width - size[1] * height) <= max(height, width)
        bounded = images.resized_size(height, width, shorter_side=224, longer_side=448)
        assert max(bounded) <= 448
        assert min(bounded) >= 1
        assert bounded == size or max(bounded) == 448


def test_padded_size():
    assert images.padded_size((16, 17), 16) == (16, 32)
    assert images.padded_size((1, 640), 8) == (8, 640)


def test_resize(tmp_path):
    assert images.resize(QUADRANTS, (32, 48)) is QUADRANTS
    resized = images.resize(QUADRANTS, (8, 12))
    assert resized.shape == (8, 12, 3)
    np.testing.assert_array_equal(resized[[[1], [6]], [[1, 10]]], COLOURS)
