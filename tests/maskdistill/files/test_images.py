import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import odd_files
from tests.odd_files import STORED, write_deep_png, write_tiff
from workflow_scripts.maskdistill.errors import ImageRejected, InputError
from workflow_scripts.maskdistill.files import image_sizes, images
from workflow_scripts.maskdistill.files.image_sizes import bounded_size, resize
from workflow_scripts.maskdistill.files.images import probe_image, read_image, read_listed

# Four flat quadrants, too large for JPEG to smear them: what each orientation does is plain.
COLOURS = odd_files.COLOURS
QUADRANTS = COLOURS.repeat(16, axis=0).repeat(24, axis=1)  # 32 x 48


def save(path, array, **options):
    Image.fromarray(np.ascontiguousarray(array)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", STORED[orientation](QUADRANTS), exif=exif)
    assert probe_image(path).size == (32, 48)
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
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_tiff(tmp_path, orientation, compression, mode):
    """Pillow maps these modes into memory where it can, which it cannot if they are compressed."""
    gray = np.array([[40, 110], [180, 250]], dtype=np.uint8)
    upright = gray.repeat(16, axis=0).repeat(24, axis=1)[..., None]
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)[..., 0]))
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(stored).astype(np.uint16) * 257)
    else:
        stored = stored.convert("RGB" if mode == "CMYK" else "L").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.tif", exif=exif, compression=compression)
    assert Image.open(tmp_path / "a.tif").mode == mode
    assert probe_image(tmp_path / "a.tif").size == (32, 48)
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
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_data_in_16_bits_keep_their_brightness(tmp_path, suffix, bits):
    full = 2**bits - 1
    array = np.linspace(0, full, 48).astype(np.uint16).reshape(6, 8)
    pixels = read_image(save(tmp_path / f"a.{suffix}", array))
    np.testing.assert_array_equal(pixels[..., 0], np.round(array / full * 255))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    # An image that is a little darker than these bits allow stays so.
    pixels = read_image(save(tmp_path / f"b.{suffix}", array // 2))
    np.testing.assert_array_equal(pixels[..., 0], np.round((array // 2) / full * 255))


def test_the_largest_value_decides_the_range_of_deep_values(tmp_path):
    def brightest(dtype, *values):
        array = np.zeros((4, 4), dtype)
        array.flat[: len(values)] = values
        pixels = read_image(save(tmp_path / "a.tif", array))[..., 0]
        return pixels.flat[: len(values)].tolist()

    assert brightest(np.uint16, 255) == [255]
    assert brightest(np.uint16, 256, 128) == [64, 32]  # of 1023
    assert brightest(np.uint16, 255, 1023) == [64, 255]
    assert brightest(np.uint16, 1024, 0) == [64, 0]  # of 4095
    assert brightest(np.uint16, 20, 10) == [255, 128]  # dark as a mask
    assert brightest(np.uint16, 0) == [0]
    assert brightest(np.int32, 70_000, 35_000) == [255, 128]
    assert brightest(np.int32, -10, 10) == [0, 255]
    assert brightest(np.float32, 0.5) == [128]
    assert brightest(np.float32, 1.02, 0.51) == [255, 128]  # a little above 1, not 1 of 255
    assert brightest(np.float32, 100.0, 50.0) == [100, 50]
    assert brightest(np.float32, np.inf, np.nan, 1, -np.inf) == [255, 0, 255, 0]


def test_deep_colours_and_their_transparency(tmp_path):
    colour = odd_files.PICTURE.astype(np.uint16) * 16  # 12 bits
    alpha = np.full(colour.shape[:2], 65535, np.uint16)
    alpha[:, :10] = 0
    write_deep_png(tmp_path / "a.png", np.dstack([colour, alpha]))
    write_tiff(tmp_path / "a.tif", np.dstack([colour, alpha]), extra=(2,))
    for name in ("a.png", "a.tif"):
        pixels = read_image(tmp_path / name)
        assert (pixels[:, :10] == 255).all()
        np.testing.assert_allclose(pixels[:, 10:], colour[:, 10:] * (255 / 4095), atol=0.5)
    for orientation, store in STORED.items():
        write_deep_png(tmp_path / "a.png", store(colour), orientation=orientation)
        write_tiff(tmp_path / "a.tif", store(colour), orientation=orientation)
        for name in ("a.png", "a.tif"):
            pixels = read_image(tmp_path / name)
            np.testing.assert_allclose(pixels, colour * (255 / 4095), atol=0.5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_values_are_turned_like_stored_pixels(tmp_path, orientation):
    """Labels that were drawn on the pixels of a photograph as they are stored."""
    labels = np.arange(32 * 48).reshape(32, 48)
    stored = STORED[orientation](labels)
    np.testing.assert_array_equal(images.turned(stored, orientation), labels)
    assert images.turned_size(stored.shape, orientation) == (32, 48)
    exif = odd_files.exif(orientation)
    for suffix in ("jpg", "png", "tif", "webp"):
        path = save(tmp_path / f"a.{suffix}", STORED[orientation](QUADRANTS), exif=exif)
        assert images.stored_size(path) == (stored.shape, orientation)
        assert probe_image(path).orientation == orientation


def close(pixels, colours, tolerance=5):
    """Whether the quadrants have these colours (2 x 2 x 3) or gray values (2 x 2)."""
    colours = np.broadcast_to(colours.reshape(2, 2, -1), (2, 2, 3)).astype(int)
    found = pixels[[[16], [48]], [[24, 72]]].astype(int)
    return pixels.shape == (64, 96, 3) and np.abs(found - colours).max() <= tolerance


def test_a_transparent_colour_of_16_bits_is_no_colour_of_8_bits(tmp_path):
    write_deep_png(tmp_path / "a.png", odd_files.PICTURE.astype(np.uint16) * 257)
    data = (tmp_path / "a.png").read_bytes()
    chunk = b"tRNS" + struct.pack(">3H", 200, 0, 0)
    chunk = struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk))
    before = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:before] + chunk + data[before:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), odd_files.PICTURE)


def test_all_kinds_of_images_are_read(tmp_path):
    expected = odd_files.write_images(tmp_path)
    assert len(expected) > 60
    for name, colours in expected.items():
        assert probe_image(tmp_path / name).size == (64, 96), name
        tolerance = 30 if "LAB" in name else 5  # saturated colours have few values in LAB
        assert close(read_image(tmp_path / name), colours, tolerance), name
    assert {Path(name).suffix.lower() for name in expected} >= {".heic", ".avif", ".jp2", ".gif"}
    depths = {name: probe_image(tmp_path / name).bits for name in expected}
    assert {depth for name, depth in depths.items() if name.startswith("deep")} == {16, 32}
    assert {depth for name, depth in depths.items() if name.startswith("turned")} == {8}


@pytest.mark.parametrize(("suffix", "kind"), [("heic", "HEIF"), ("avif", "AVIF")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_of_phones_are_upright(tmp_path, suffix, kind, orientation):
    """HEIC and AVIF have a turn of their own in the container."""
    path, data = tmp_path / f"a.{suffix}", odd_files.exif(orientation).tobytes()
    save(path, STORED[orientation](odd_files.PICTURE), format=kind, exif=data, quality=95)
    assert probe_image(path).size == (64, 96)
    assert close(read_image(path), odd_files.COLOURS)


def test_a_file_that_is_another_format_than_its_suffix_says(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert probe_image(tmp_path / "a.jpg").format == "PNG"


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


def test_the_first_frame_or_page_is_read_and_it_is_known_that_there_are_others(tmp_path):
    for name in odd_files.write_frames(tmp_path):
        assert probe_image(tmp_path / name).several, name
        np.testing.assert_array_equal(read_image(tmp_path / name), odd_files.PICTURE)
    Image.fromarray(QUADRANTS).save(tmp_path / "one.gif")
    assert not probe_image(tmp_path / "one.gif").several
    # The second picture of a camera's MPO is a preview.
    first, second = Image.fromarray(odd_files.PICTURE), Image.new("RGB", (48, 32))
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second], quality=95)
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert close(read_image(tmp_path / "a.jpg"), odd_files.COLOURS)
    assert probe_image(tmp_path / "a.jpg")[2:] == ("JPEG", 8, 1, False, False)


def test_images_of_one_colour(tmp_path):
    flat = Image.new("RGB", (96, 64), (30, 90, 201))
    for name in ("a.jpg", "a.png", "a.webp", "a.gif", "a.heic", "a.jp2"):
        flat.save(tmp_path / name)
        assert probe_image(tmp_path / name).one_colour, name
    save(tmp_path / "deep.png", np.full((64, 96), 700, np.uint16))
    assert probe_image(tmp_path / "deep.png").one_colour
    # A dark photograph, two neighbouring colours of a palette, and 16 bits of which few are used.
    dark = np.random.default_rng(0).integers(0, 8, (64, 96, 3), np.uint8)
    dark[:32] //= 4
    Image.fromarray(dark).save(tmp_path / "dark.png")
    palette = Image.fromarray(np.arange(64 * 96).reshape(64, 96).astype(np.uint8) % 2, "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "palette.png")
    save(tmp_path / "few.png", np.arange(64 * 96).reshape(64, 96).astype(np.uint16) % 3)
    for name in ("dark.png", "palette.png", "few.png"):
        assert not probe_image(tmp_path / name).one_colour, name


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
    for name, reason in odd_files.write_broken(tmp_path / "odd").items():
        both_reject(tmp_path / "odd" / name, re.escape(reason), min_side=4)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path, *_):  # because root may read everything
        raise PermissionError(13, "Permission denied", path)

    save(tmp_path / "a.png", QUADRANTS)
    monkeypatch.setattr(images, "open", refuse, raising=False)
    both_reject(tmp_path / "a.png", "^unreadable: Permission denied$")


def outcome(function, path):
    try:
        result = function(path, max_pixels=10**6)
    except ImageRejected:
        return "rejected"
    return result.shape[:2] if isinstance(result, np.ndarray) else result.size


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
    assert probe_image(path).size == (97, 131)


SUFFIXES = ["jpg", "png", "tif", "webp", "bmp", "gif", "avif", "heic", "jp2", "ppm"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.filterwarnings("ignore")
def test_probe_and_read_agree_on_damaged_files(tmp_path, suffix):
    """Whatever the damage: no other exception, and no image that passes and then fails."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if suffix in ("jpg", "png", "tif", "webp") else {}
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
    assert probe_image(one).size == (1, 1)
    assert read_image(one).tolist() == [[[7, 7, 7]]]
    both_reject(one, re.escape("too small: 1 x 1 px (images.min_side is 2)"), min_side=2)
    path = save(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))
    assert probe_image(path, max_pixels=200).size == (10, 20)
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
    assert probe_image(path).size == (32, 48)
    np.testing.assert_array_equal(read_image(path), QUADRANTS)


def test_resized_size():
    assert image_sizes.resized_size(480, 640, shorter_side=240) == (240, 320)
    assert image_sizes.resized_size(640, 480, shorter_side=960) == (1280, 960)
    assert image_sizes.resized_size(100, 5000, shorter_side=640, longer_side=2560) == (51, 2560)
    assert image_sizes.resized_size(1, 100000, shorter_side=640, longer_side=2560) == (1, 2560)
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 3000, (200, 2)).tolist():
        size = image_sizes.resized_size(height, width, shorter_side=224)
        assert min(size) == 224
        assert abs(size[0] * width - size[1] * height) <= max(height, width)
        bounded = image_sizes.resized_size(height, width, shorter_side=224, longer_side=448)
        assert max(bounded) <= 448
        assert min(bounded) >= 1
        assert bounded == size or max(bounded) == 448


def test_padded_size():
    assert image_sizes.padded_size((16, 17), 16) == (16, 32)
    assert image_sizes.padded_size((1, 640), 8) == (8, 640)


def test_resize(tmp_path):
    assert image_sizes.resize(QUADRANTS, (32, 48)) is QUADRANTS
    resized = image_sizes.resize(QUADRANTS, (8, 12))
    assert resized.shape == (8, 12, 3)
    np.testing.assert_array_equal(resized[[[1], [6]], [[1, 10]]], COLOURS)


def test_an_animated_gif_that_is_cut_is_read_or_rejected(tmp_path):
    pictures = [Image.effect_noise((40, 40), sigma).convert("P") for sigma in (30, 60, 90)]
    whole = tmp_path / "whole.gif"
    pictures[0].save(whole, save_all=True, append_images=pictures[1:])
    content, cut = whole.read_bytes(), tmp_path / "cut.gif"
    first, several = images.read_image(whole), set()
    for length in range(1, len(content), 11):
        cut.write_bytes(content[:length])
        try:
            several.add(images.probe_image(cut).several)
        except ImageRejected:
            continue
        np.testing.assert_array_equal(images.read_image(cut), first)
    assert True in several
