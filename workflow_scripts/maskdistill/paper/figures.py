"""The figures of the ablations: charts of the scores over the values of one setting."""

from collections.abc import Mapping, Sequence

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.paper.items import X_LABELS, images_of, title_of
from workflow_scripts.maskdistill.pictures import charts


def figure(item: str, tables: Sequence[Mapping]) -> str:
    """The tables of a figure as charts below each other, in one SVG document.

    Raises:
        InputError: no number of the figure is defined.
    """
    panels = []
    for table in tables:
        scale = 1 if table["unit"] == "count" else 100
        columns = list(table["rows"][0]["cells"])
        lines = {}
        for column in columns:
            points = [
                (float(row["name"]), row["cells"][column]["ours"])
                for row in table["rows"]
                if row["cells"][column]["ours"]["mean"] is not None
            ]
            if points:
                lines[column] = charts.Series(
                    [x for x, _ in points],
                    [scale * ours["mean"] for _, ours in points],
                    [scale * (ours["sd"] or 0) for _, ours in points],
                )
        if not lines:
            continue
        chart = charts.line_chart(
            lines,
            x_label=X_LABELS[item],
            x_ticks=sorted({x for line in lines.values() for x in line.x}),
            y_label="patches" if table["unit"] == "count" else "%",
        )
        title = title_of(table).replace(" – ", "\n") + f"\n{images_of(table)}"
        panels.append((title, list(lines), chart))
    if not panels:
        raise InputError(
            f"{item}: nothing to draw, because the metrics of its variants have no numbers for it"
        )
    return charts.stacked(panels)
