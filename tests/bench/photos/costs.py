"""Seconds per image and peak memory of the stages, from Snakemake's benchmark files."""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from workflow_scripts.maskdistill.report.times import rule_of_benchmark

_PLACE = re.compile(r"(?:seed-(\d+)/)?(?:(round-\d+)/)?(?:(train|val)/)?")


def costs(benchmarks: Path, results: Path, counts: Mapping[str, int]) -> dict[str, dict]:
    """Time and memory of every rule of a run.

    Args:
        benchmarks: folder of the run's benchmark files.
        results: folder of the run's results.
        counts: split → number of its images.

    Returns:
        For each rule: `seconds_per_image`, the seconds of all its jobs, divided by the number of
        images in the splits that it processed, counted once per seed and round (for clusterings and
        trainings, the images of `train`); `peak_mb`, the peak memory of its largest job, or None if
        Snakemake did not measure it; `jobs`, the number of its jobs.
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
    """The number in a cell of a benchmark file; None for the `-` or `NA` of no measurement."""
    try:
        return float(text or "NA")
    except ValueError:
        return None
