import jinja2
import pytest

from workflow_scripts.maskdistill.pictures import html_pages


@pytest.fixture
def template(tmp_path, monkeypatch):
    (tmp_path / "page.j2").write_text("<p>{{ name | loud }}</p>")
    monkeypatch.setattr(html_pages, "REPOSITORY", tmp_path)
    return "page.j2"


def test_values_are_escaped_and_filtered(template):
    page = html_pages.render(template, filters={"loud": str.upper}, name="<b>cat")
    assert page == "<p>&lt;B&gt;CAT</p>"


def test_a_missing_value_is_an_error(template):
    with pytest.raises(jinja2.UndefinedError, match="name"):
        html_pages.render(template, filters={"loud": str})
