"""Seconds per image and peak memory of the stages, from Snakemake's benchmark files."""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from workflow_scripts.maskdistill.report.times import rule_of_benchmark

_PLACE = re.compile(r"(?:seed-(\d+)/)?(?:(round-\d+)/)?(?:(train|val)/)?")


def costs(benchmarks: Path, results: Path, counts: Mapping[str, int]) -> dict[str, dict]:
    """What every rule of a run took.

    Args:
        benchmarks: folder of the run's benchmark files.
        results: folder of its results.
        counts: split → number of its images.

    Returns:
        Rule → `seconds_per_image`: seconds of all its jobs, divided by the images of the splits
        that it worked on, once for each seed and round; what belongs to no split (clusters,
        trainings) is divided by the images of `train`. `peak_mb`: memory of its largest job, None
        where it was not measured. `jobs`: their number.
    """
    seconds: dict[str, float] = defaultdict(float)
    peaks: dict[str, list[float]] = defaultdict(list)
    jobs: dict[str, int] = defaultdict(int)
    passes: dict[str, set[tuple]] = defaultdict(set)
    for path in sorted(benchmarks.rglob("*.tsv")):
        place = path.relative_to(benchmarks)
        if place.parts[0] == "ablations":
            continue
        rule = rule_of_benchmark(place, tuple(counts), results)
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                jobs[rule] += 1
                seconds[rule] += _number(row.get("s")) or 0.0
                if (peak := _number(row.get("max_rss"))) is not None:
                    peaks[rule].append(peak)
        passes[rule].add(_PLACE.match(place.as_posix()).groups())
    return {
        rule: {
            "seconds_per_image": seconds[rule]
            / sum(counts[split or "train"] for *_, split in passes[rule]),
            "peak_mb": max(peaks[rule], default=None),
            "jobs": jobs[rule],
        }
        for rule in jobs
    }


def _number(text: str | None) -> float | None:
    """A cell of a benchmark file; Snakemake writes `-` or `NA` where it could not measure."""
    try:
        return float(text or "NA")
    except ValueError:
        return None
