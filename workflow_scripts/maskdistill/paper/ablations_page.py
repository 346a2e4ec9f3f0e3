"""The page that shows all tables and figures of the ablations of one dataset."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from workflow_scripts.maskdistill.paper import items as paper_items
from workflow_scripts.maskdistill.pictures import html_pages


def render(
    dataset: str, items: Sequence[Mapping], figures: Mapping[str, str], left_out: Sequence[str]
) -> str:
    """All items, i.e. tables and figures of the paper, on one self-contained HTML page.

    Args:
        items: contents of the items' JSON files.
        figures: item → SVG.
        left_out: items that need labels of single objects, which the dataset does not have.
    """
    return html_pages.render(
        "workflow_scripts/maskdistill/templates/ablations.html.j2",
        dataset=dataset,
        items=items,
        figures={item: Markup(svg) for item, svg in figures.items()},  # trusted: made by `figures`
        left_out=[paper_items.TITLES[item] for item in left_out],
        obstacles=items[0]["obstacles"],
        name_of=paper_items.name_of,
        x_labels=paper_items.X_LABELS,
        matchings=paper_items.MATCHINGS,
        title_of=paper_items.title_of,
        images_of=paper_items.images_of,
    )
