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
        description="Whether every dimension of the embeddings is divided by its standard "
        "deviation before k-means.",
    )
    iterations: Count = Field(100, description="Largest number of k-means steps per run.")
    redo: Count = Field(
        5,
        description="Number of k-means runs from different starts, each on a sample of at most 256 "
        "embeddings per cluster; the best one is continued with all embeddings.",
    )
    max_points: Count = Field(
        1_000_000,
        description="Largest number of embeddings that k-means uses; if there are more, it uses a "
        "random sample.",
    )
    support: Annotated[listed(FileName), *UNIQUE] = Field(
        (), description="Further datasets whose training masks are used to compute the centroids."
    )
    suggestions: listed(Count, least=1) = Field(
        (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50),
        description="Numbers of clusters that `snakemake suggest_clusters` compares.",
    )
