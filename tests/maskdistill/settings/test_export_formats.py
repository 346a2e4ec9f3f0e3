import yaml

from workflow_scripts.maskdistill.exports.formats import WRITERS
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings.export_formats import EXPORT_FORMATS


def test_every_format_has_its_writer():
    assert set(WRITERS) == set(EXPORT_FORMATS)


def test_the_config_accepts_every_format():
    schema = yaml.safe_load((REPOSITORY / "config/schemas/dataset.schema.yaml").read_text())
    formats = schema["properties"]["exports"]["properties"]["formats"]
    assert set(formats["items"]["enum"]) == set(EXPORT_FORMATS)
    default = yaml.safe_load((REPOSITORY / "config/default.yaml").read_text())
    assert default["defaults"]["exports"]["formats"] == list(EXPORT_FORMATS)


def test_the_documentation_lists_every_format():
    rows = "".join(
        f"| `{name}` | {found.opened_with} | {found.holds} |\n"
        for name, found in EXPORT_FORMATS.items()
    )
    assert rows in (REPOSITORY / "config/README.md").read_text(encoding="utf-8")
