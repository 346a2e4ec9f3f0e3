from workflow_scripts.maskdistill.exports.formats import WRITERS
from workflow_scripts.maskdistill.settings.export_formats import EXPORT_FORMATS


def test_every_format_has_its_writer():
    assert set(WRITERS) == set(EXPORT_FORMATS)
