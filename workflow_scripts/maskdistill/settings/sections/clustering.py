"""The section `clustering`: k-means on the embeddings."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import (
    UNIQUE,
    Count,
    FileName,
    Section,
    listed,
)


class ClusteringSettings(Section):
    """k-means on the embeddings."""

    section: ClassVar[str] = "clustering"

    clusters: Count = Field(
        20,
        description="Number of clusters C: how many kinds of objects are told apart. If there are "
        "fewer kinds, some are divided among several clusters, which config/names can merge.",
    )
    metric: Literal["cosine", "euclidean"] = Field(
        "cosine",
        description="How embeddings are compared: cosine (by their direction, so that their length "
        "does not count) or euclidean (by their distance).",
    )
    standardize: bool = Field(
        False,
        description="First divide every dimension by its standard deviation over all points.",
    )
    iterations: Count = Field(100, description="The most k-means steps per run.")
    redo: Count = Field(
        5,
        description="Runs from different starts on at most 256 points per cluster; the best one "
        "is continued with all points.",
    )
    max_points: Count = Field(
        1_000_000, description="The most embeddings used; if there are more, a sample is drawn."
    )
    support: Annotated[listed(FileName), *UNIQUE] = Field(
        (), description="Further datasets whose training masks are used to compute the centroids."
    )
    suggestions: listed(Count, least=1) = Field(
        (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50),
        description="Numbers of clusters that `snakemake suggest_clusters` compares.",
    )
