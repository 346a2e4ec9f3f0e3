"""The key `shards`: the number of parts into which the images of a split are divided."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Field, Tag

from workflow_scripts.maskdistill.settings.section import Count, Section


class ShardsOfSplits(Section):
    """A number of shards for each split."""

    train: Count = Field(description="Shards of `train`, and of splits without a number.")
    val: Count = Field(None, description="Shards of `val`.")
    instances: Count = Field(None, description="Shards of `instances`.")


Shards = Annotated[
    Annotated[Count, Tag("one")] | Annotated[ShardsOfSplits, Tag("each")],
    Discriminator(lambda value: "each" if isinstance(value, Mapping | ShardsOfSplits) else "one"),
]
