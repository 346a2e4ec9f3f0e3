import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from workflow_scripts.maskdistill.pictures import fonts


@pytest.fixture
def alone(monkeypatch):
    """No font but Pillow's own."""
    monkeypatch.setattr(fonts, "WIDE", ())
    fonts._fonts.cache_clear()
    yield
    fonts._fonts.cache_clear()


def test_plain_text_is_left_alone(alone):
    text, font = fonts.readable("cluster 7: chat, 31.5 %…", 14)
    assert text == "cluster 7: chat, 31.5 %…"
    assert font.getname() == ImageFont.load_default(14).getname()


def test_what_no_font_has_is_escaped(alone):
    assert fonts.readable("猫 cat", 14)[0] == "\\u732b cat"
    assert fonts.readable("\U0010ffff", 14)[0] == "\\U0010ffff"


def test_a_font_of_the_system_is_taken_where_it_has_the_characters(monkeypatch):
    own, other = ImageFont.load_default(14), ImageFont.load_default(15)
    monkeypatch.setattr(fonts, "_fonts", lambda size: [own, other])
    monkeypatch.setattr(fonts, "_has", lambda font, character: font is other or character < "z")
    assert fonts.readable("猫", 14) == ("猫", other)
    assert fonts.readable("cat", 14) == ("cat", own)


def test_long_text_is_cut_and_what_is_drawn_fits(alone):
    picture = Image.new("L", (400, 30))
    fonts.write(ImageDraw.Draw(picture), (5, 5), "a long name of a file " * 5, 255, 14, room=100)
    columns = np.flatnonzero(np.asarray(picture).any(axis=0))
    assert 60 < columns.max() <= 106
    assert fonts.width("猫", 14) == fonts.width("\\u732b", 14)
