"""The page that compares numbers of clusters."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_scripts.maskdistill.discovery.cluster_counts import ClusterCount
from workflow_scripts.maskdistill.pictures import charts, crops, drawing, html_pages

CROP_SIZE = 72  # pixels


def sheet(
    keys: Sequence[crops.Key],
    clusters: np.ndarray,
    distances: np.ndarray,
    *,
    images: Iterable[Path],
    masks: Iterable[Path],
    root: Path,
    crops_shown: int,
) -> list[dict]:
    """Size and nearest masks of every cluster, the largest cluster first.

    Args:
        keys: n masks.
        clusters: their clusters 1..C.
        distances: their distances to the centroid.
        images, masks: manifests and mask shards that hold the masks.
        root: folder that file names are relative to.
        crops_shown: largest number of masks shown per cluster.
    """
    chosen = {}
    for cluster in range(1, clusters.max() + 1):
        members = np.flatnonzero(clusters == cluster)
        own = [keys[i] for i in members]
        chosen[cluster] = (len(own), crops.nearest(own, distances[members].tolist(), crops_shown))
    wanted = [key for _, nearest in chosen.values() for key in nearest]
    pictures = crops.read_crops(wanted, images, masks, root, CROP_SIZE)
    return [
        {
            "cluster": cluster,
            "size": size,
            "crops": [drawing.data_uri(pictures[key], quality=80) for key in nearest],
        }
        for cluster, (size, nearest) in chosen.items()
    ]


def table(found: Sequence[ClusterCount]) -> pd.DataFrame:
    """One row for each number of clusters."""
    return pd.DataFrame([{**one._asdict(), "score": one.score} for one in found])


def page(
    dataset: str, masks: int, found: Sequence[ClusterCount], sheets: Mapping[int, Sequence[dict]]
) -> str:
    """The page as one HTML document.

    Args:
        dataset: its name.
        masks: number of masks.
        found: results of `cluster_counts.compare`, by ascending number of clusters.
        sheets: suggested number of clusters → result of `sheet`; the best number is first.
    """
    x = [one.clusters for one in found]
    series = {
        "silhouette": charts.Series(x, [one.silhouette for one in found]),
        "stability": charts.Series(x, [one.stability for one in found]),
        "their product": charts.Series(x, [one.score for one in found]),
    }
    return html_pages.render(
        "workflow_scripts/maskdistill/templates/suggested_clusters.html.j2",
        dataset=dataset,
        masks=masks,
        found=found,
        sheets=sheets,
        names=list(series),
        chart=charts.line_chart(series, x_label="number of clusters", y_label="mean of five runs"),
    )
