"""Looking at a new dataset: what its files are, how many can be read, and how fast."""

import concurrent.futures
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.maskdistill.data import folders
from workflow_scripts.maskdistill.data.datasets import Listing, shard_of
from workflow_scripts.maskdistill.errors import printable
from workflow_scripts.maskdistill.files import images
from workflow_scripts.maskdistill.progress import progress

_ORDERS = 1 << 40  # number of values of the hash that draws a sample


class Survey(NamedTuple):
    """Facts about the files of a dataset."""

    images: int
    bytes: int  # of all image files
    sampled: bool  # whether only a sample of the images was decoded
    read: list[images.ImageFacts]  # of the decoded images that can be used
    rejected: dict[str, str]  # file name → reason, of the decoded images that cannot be used
    seconds: float  # mean time to decode one image on one processor core
    skipped: dict[str, dict]  # see `folders.by_type`

    @property
    def rejected_share(self) -> float:
        """Share of the examined images that cannot be used, 0..1."""
        return len(self.rejected) / max(1, len(self.rejected) + len(self.read))

    @property
    def undecided_turns(self) -> int:
        """Images that EXIF turns without changing their size, so that labels fit either way."""
        return sum(
            one.orientation in (2, 3, 4) or (one.orientation > 4 and one.height == one.width)
            for one in self.read
        )


def survey(
    listing: Listing, root: Path, limits: Mapping[str, int], *, sample: int, workers: int
) -> Survey:
    """Decode images, as list_images does, and time it.

    Args:
        root: folder of the images.
        limits: max_pixels and min_side of the settings `images`.
        sample: largest number of images that are decoded; a hash of their names draws them.
        workers: number of threads.
    """
    listed = sorted(listing.images, key=lambda image: shard_of(image.file_name, _ORDERS))
    read: list[images.ImageFacts] = []
    rejected: dict[str, str] = {}

    def probe(name: str) -> tuple[str, images.ImageFacts | str, float]:
        started = time.thread_time()
        try:
            result: images.ImageFacts | str = images.probe_image(root / name, **limits)
        except images.ImageRejected as rejection:
            result = str(rejection)
        return name, result, time.thread_time() - started

    names = [image.file_name for image in listed[:sample]]
    seconds = 0.0
    skipped = list(listing.skipped)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        probes = pool.map(probe, names)
        for name, result, took in progress(
            probes, description="images", unit="image", total=len(names)
        ):
            seconds += took
            if isinstance(result, str):
                rejected[name] = result
                continue
            read.append(result)
            if result.several:
                skipped.append(folders.FoundFile(name, folders.LATER_FRAMES))
    return Survey(
        images=len(listed),
        bytes=sum(map(_size, (root / image.file_name for image in listed))),
        sampled=len(names) < len(listed),
        read=read,
        rejected=dict(sorted(rejected.items())),
        seconds=seconds / max(1, len(names)),
        skipped=folders.by_type(skipped),
    )


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def lines(found: Survey) -> list[str]:
    """The survey in words, one fact per line."""
    examined = len(found.read) + len(found.rejected)
    result = [f"{found.images:,} images, {found.bytes / 1e6:,.1f} MB"]
    if found.sampled:
        result.append(f"the following lines are about {examined:,} of them, drawn at random")
    result.append(f"reading an image takes {1000 * found.seconds:.0f} ms on one processor core")
    if found.read:
        result.append(f"formats: {_counted(Counter(one.format for one in found.read))}")
        pixels = sorted(found.read, key=lambda one: one.height * one.width)
        sizes = [f"{one.height} × {one.width}" for one in (pixels[0], pixels[-1])]
        middle = pixels[len(pixels) // 2]
        result.append(
            f"sizes: {sizes[0]} to {sizes[1]}, the median is {middle.height} × {middle.width}"
        )
        depths = Counter(f"{one.bits} bits" for one in found.read)
        if set(depths) != {"8 bits"}:
            result.append(f"depths: {_counted(depths)} per sample; more than 8 are scaled to 8")
        turned = Counter(f"orientation {one.orientation}" for one in found.read)
        if turned.pop("orientation 1", 0) < len(found.read):
            result.append(f"turned upright as EXIF says: {_counted(turned)}")
        if flat := sum(one.one_colour for one in found.read):
            result.append(f"of one colour, so that they show nothing: {flat:,}")
    reasons = Counter(reason.partition(":")[0] for reason in found.rejected.values())
    for reason, count in reasons.most_common():
        example = next(name for name, why in found.rejected.items() if why.startswith(reason))
        result.append(f"cannot be used: {count:,} × {reason} (for example {printable(example)})")
    return result + folders.lines(found.skipped)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} × {name}" for name, count in sorted(counts.items()))
