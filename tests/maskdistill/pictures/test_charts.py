import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from workflow_scripts.maskdistill.pictures import charts


@pytest.mark.parametrize("span", [(0, 1), (0, 23980), (-3, 0.02), (0, 1e-5), (2, 2.5)])
def test_ticks_are_few_evenly_spaced_and_within_the_span(span):
    ticks = charts.nice_ticks(*span)
    assert 2 <= len(ticks) <= 7
    assert span[0] - 1e-9 <= ticks[0] <= ticks[-1] <= span[1] + 1e-9
    gaps = np.diff(ticks)
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-6)


def test_ticks_of_an_empty_span():
    assert charts.nice_ticks(3, 3) == [3]


def points(svg, index):
    line = ElementTree.fromstring(svg).findall("polyline")[index]
    return np.array([p.split(",") for p in line.get("points").split()], dtype=float)


def test_line_chart_scales_its_points_to_the_axes():
    series = {"loss": charts.Series([0, 50, 100], [2.0, 1.0, 0.0])}
    found = points(charts.line_chart(series, x_label="step", y_label="loss"), 0)
    np.testing.assert_allclose(np.diff(found[:, 0]), np.diff(found[:, 0])[0])
    assert found[0, 1] < found[1, 1] < found[2, 1]  # y grows downwards


@pytest.mark.parametrize("series", [charts.Series([5], [0.0]), charts.Series([1, 2], [-1, -1])])
def test_line_chart_of_degenerate_series(series):
    found = points(charts.line_chart({"loss": series}, x_label="s", y_label="l"), 0)
    assert np.isfinite(found).all()


def test_a_chart_labels_the_values_that_were_tried():
    tried = [0.02, 0.05, 0.1]
    series = {"ap": charts.Series(tried, [1.0, 2.0, 3.0])}
    chart = charts.line_chart(series, x_label="k", y_label="AP", x_ticks=tried)
    labels = {
        text.text: float(text.get("x"))
        for text in ElementTree.fromstring(chart).iter("text")
        if text.get("text-anchor") == "middle" and text.get("class") == "tick"
    }
    assert list(labels) == ["0.02", "0.05", "0.1"]
    np.testing.assert_allclose(list(labels.values()), points(chart, 0)[:, 0], atol=0.11)


def test_a_single_point_stands_in_the_middle():
    def x(values):
        series = {"ap": charts.Series(values, [1.0] * len(values))}
        return points(charts.line_chart(series, x_label="k", y_label="AP"), 0)[:, 0]

    first, last = x([0, 1])
    assert x([6])[0] == pytest.approx((first + last) / 2, abs=0.11)


def test_whiskers_reach_one_standard_deviation_to_either_side():
    series = {"ap": charts.Series([1, 3], [2.0, 4.0], [1.0, 0.0])}
    chart = charts.line_chart(series, x_label="k", y_label="AP")
    line, first, second = (points(chart, i) for i in range(3))
    assert first[0, 0] == first[1, 0] == line[0, 0]
    # As far down and up as the line rises from 2 to 3: a unit of the axis.
    unit = (line[0, 1] - line[1, 1]) / 2
    np.testing.assert_allclose(first[:, 1] - line[0, 1], [unit, -unit], atol=0.11)
    assert second[0, 1] == second[1, 1]
    assert len(ElementTree.fromstring(chart).findall("circle")) == 2


def test_stacked_charts_are_one_document():
    chart = charts.line_chart({"a<b": charts.Series([0, 1], [0, 1])}, x_label="x", y_label="y")
    text = charts.stacked([("One & two", ["a<b"], chart), ("Three", ["a<b"], chart)])
    root = ElementTree.fromstring(text.encode())
    texts = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert texts.count("a<b") == 2
    assert "One & two" in texts
    single = ElementTree.fromstring(charts.stacked([("", [], chart)]).encode())
    assert int(root.get("height")) == 2 * int(single.get("height"))


def test_every_line_of_a_title_has_its_place():
    chart = charts.line_chart({"a": charts.Series([0, 1], [0, 1])}, x_label="x", y_label="y")
    root = ElementTree.fromstring(charts.stacked([("One\ntwo", ["a"], chart)]).encode())
    titles = {n.text: int(n.get("y")) for n in root.iter() if n.get("class") == "title"}
    (legend,) = [n for n in root.iter() if n.text == "a"]
    assert titles["One"] + 14 < titles["two"] < int(legend.get("y")) - 14


def test_heat_map_shows_shares_and_escapes_names():
    svg = charts.heat_map(np.array([[1.0, 0.001], [0.25, 0.75]]), ["<b>", "cat"], ["x", "y&z"])
    root = ElementTree.fromstring(svg)
    cells = [r for r in root.iter("rect") if r.get("class") == "cell"]
    assert [float(c.get("fill-opacity")) for c in cells] == [1.0, 0.25, 0.75]
    assert cells[0].find("title").text == "<b> → x: 100.0%"
    assert {"<b>", "cat", "y&z", "75"} <= {text.text for text in root.iter("text")}
