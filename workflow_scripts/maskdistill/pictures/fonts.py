"""Fonts for text in pictures, chosen so that all characters can be read."""

import functools

from PIL import Image, ImageDraw, ImageFont

# Fonts that Pillow looks for in the system's font folders. The first have all Latin letters, of
# which Pillow's own font has few. The others have Chinese, Japanese and Korean characters.
WIDE = (
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "Arial Unicode.ttf",
    "unifont.otf",
)


def readable(text: str, size: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """A text, and a font that has all of its characters.

    The font is Pillow's own if possible, otherwise the first suitable one of the system. If there
    is none, missing characters are replaced by escapes: 猫 by \\u732b.
    """
    for font in _fonts(size):
        if all(_has(font, character) for character in set(text)):
            return text, font
    font = _fonts(size)[0]
    escaped = "".join(
        character if _has(font, character) else character.encode("unicode_escape").decode()
        for character in text
    )
    return escaped, font


def width(text: str, size: float) -> float:
    """Width in pixels of a text written in the font of `readable`."""
    shown, font = readable(text, size)
    return font.getlength(shown)


def write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour,
    size: float,
    *,
    room: float | None = None,
) -> None:
    """Write a text whose upper left corner is at `place`.

    Args:
        room: largest width in pixels; a longer text is truncated and ends in "…".
    """
    shown, font = readable(text, size)
    if room is not None and font.getlength(shown) > room:
        while shown and font.getlength(shown + "…") > room:
            shown = shown[:-1]
        shown += "…"
    pen.text(place, shown, colour, font)


@functools.cache
def _fonts(size: float) -> list[ImageFont.FreeTypeFont]:
    found = [ImageFont.load_default(size)]
    for name in WIDE:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return found


@functools.cache
def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether a font has a character, i.e. draws it differently from one that no font has."""
    if character.isspace():
        return True
    return _drawn(font, character) != _drawn(font, "\U0010ffff")


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple:
    box = font.getbbox(character)
    size = (max(1, int(box[2])), max(1, int(box[3])))
    picture = Image.new("L", size)
    ImageDraw.Draw(picture).text((0, 0), character, 255, font)
    return size, picture.tobytes()
