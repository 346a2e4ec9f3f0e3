from xml.etree import ElementTree

import pytest

from tests.maskdistill.paper.summaries import mean, swept, tables
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.paper import figures


def test_a_figure_is_one_svg_file_with_whiskers():
    others, sweep = swept((10, 0.1, "hungarian"), (20, 0.2, "hungarian"), (40, 0.4, "majority"))
    root = ElementTree.fromstring(figures.figure("figure_3", tables("figure_3", others, sweep)))
    name = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{name}svg"
    texts = [text.text for text in root.iter(f"{name}text")]
    assert any("overclustering, majority" in text for text in texts)
    # 14 px and bold: longer lines would be cut off.
    titles = [text.text for text in root.iter(f"{name}text") if text.get("class") == "title"]
    assert max(map(len, titles)) * 8.5 < int(root.get("width"))
    assert {"AP50", "AP", "AP75", "clusters", "%"} <= set(texts)
    assert len(list(root.iter(f"{name}circle"))) == 9  # 3 values x 3 columns


def test_a_figure_of_nothing_says_so():
    others, sweep = swept((10, 0.1, "hungarian"))
    others["variant-10"]["steps"]["mask_rcnn"]["miou"] = mean(None, None, 0)
    with pytest.raises(InputError, match="nothing to draw"):
        figures.figure("figure_5", tables("figure_5", others, sweep))
