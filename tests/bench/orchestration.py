"""The cost of Snakemake: time to plan many shards, and time of the demo outside of its jobs."""

import csv
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from tests.bench import Row, median_seconds
from tests.rules.conftest import REPOSITORY

SHARDS = (16, 128, 1024)
LIMIT = 30.0  # seconds that a dry-run of 1,024 shards may take
# Bound on the planning time per further job with many shards, divided by the same time with few
# shards. The ratio is near 1 if the time grows linearly.
LINEAR = 1.3
DEMO_LIMIT = 0.1


def rows() -> Iterator[Row]:
    """All measurements."""
    yield from dry_runs()
    with tempfile.TemporaryDirectory() as directory:
        yield from demo(Path(directory))


def dry_runs() -> Iterator[Row]:
    """Wall-clock and processor time of a dry-run of the target `all`, by number of shards."""
    for what, prepare in (("demo", generated), ("folder", photographs)):
        seconds, jobs = {}, {}
        for shards in SHARDS:
            # With few shards, times differ little from each other, so that medians are needed.
            repeats = 1 if shards == SHARDS[-1] else 5
            runs = [dry_run(prepare, shards) for _ in range(repeats)]
            wall, seconds[shards], jobs[shards] = map(statistics.median, zip(*runs, strict=True))
            yield Row(
                what=f"dry-run, {what}, {shards:,} shards, {jobs[shards]:,} jobs",
                value=wall,
                unit="s",
                reference=LIMIT if shards == SHARDS[-1] else None,
                against="limit",
                at_most=1,
            )
            yield Row(
                what=f"dry-run, {what}, {shards:,} shards, processor time per job",
                value=1000 * seconds[shards] / jobs[shards],
                unit="ms",
            )
        small, middle, large = SHARDS
        slopes = [
            1000 * (seconds[more] - seconds[fewer]) / (jobs[more] - jobs[fewer])
            for fewer, more in ((small, middle), (middle, large))
        ]
        yield Row(
            what=f"processor time per further job, {what}, {middle:,} to {large:,} shards",
            value=slopes[1],
            unit="ms",
            reference=slopes[0],
            against=f"{small:,} to {middle:,} shards",
            at_most=LINEAR,
        )


def generated(directory: Path, shards: int) -> dict:
    """Config of the demo, which generates its images; `val` has as many shards as `train`."""
    return {"datasets": ["demo"], "overrides": {"shards": shards}}


def photographs(directory: Path, shards: int) -> dict:
    """Config of a folder of a user's images; `val` has an eighth of the shards of `train`."""
    by_split = {"train": shards, "val": shards // 8}
    for split, count in by_split.items():
        (directory / "photos" / split).mkdir(parents=True)
        for number in range(8 * count):
            (directory / "photos" / split / f"{number}.jpg").touch()
    path = directory / "config" / "datasets" / "photos.yaml"
    path.parent.mkdir(parents=True)
    splits = {"root": "photos", "splits": {"train": "train", "val": "val"}}
    path.write_text(yaml.safe_dump({"dataset": splits}))
    return {"datasets": ["photos"], "overrides": {"shards": by_split}}


def dry_run(prepare: Callable[[Path, int], dict], shards: int) -> tuple[float, float, int]:
    """Plan a dataset with `shards` shards: wall-clock and processor seconds, number of jobs."""
    with tempfile.TemporaryDirectory() as directory:
        command = _snakemake(Path(directory), prepare(Path(directory), shards))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--dry-run", "--quiet", "rules", "host", "--", "all"],
            capture_output=True,
            text=True,
            check=True,
        )
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    jobs = int(re.search(r"^total +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)[1])
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, jobs


def demo(directory: Path) -> Iterator[Row]:
    """Run the demo, and measure how much of its time passes outside of the jobs."""
    command = _snakemake(directory, {"datasets": ["demo"]})
    start = time.time()
    subprocess.run([*command, "--quiet", "all", "--", "all"], check=True)
    wall = time.time() - start
    intervals = job_intervals(directory / "benchmarks")
    idle = wall - union_length(intervals)
    yield Row(what="demo, wall-clock time", value=wall, unit="s")
    yield Row(
        what=f"demo, time without a running job ({len(intervals)} jobs)",
        value=idle,
        unit="s",
        reference=wall,
        against="wall-clock time",
        at_most=DEMO_LIMIT,
    )
    program = [sys.executable, "-m", "workflow_scripts.extract_features", "--help"]
    startup = median_seconds(
        lambda: subprocess.run(program, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL), 3
    )
    yield Row(
        what=f"demo, interpreter and imports ({startup:.1f} s per job)",
        value=startup * len(intervals),
        unit="s",
        reference=sum(end - begin for begin, end in intervals),
        against="sum of the jobs' times",
    )


def job_intervals(benchmarks: Path) -> list[tuple[float, float]]:
    """Begin and end of every job in seconds since 1970; the end is its benchmark file's time."""
    intervals = []
    for path in sorted(benchmarks.rglob("*.tsv")):
        with open(path, newline="") as file:
            (row,) = csv.DictReader(file, delimiter="\t")
        end = path.stat().st_mtime
        intervals.append((end - float(row["s"]), end))
    return intervals


def union_length(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals: the time in which at least one job ran."""
    total, last = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


def _snakemake(directory: Path, config: dict) -> list[str]:
    """The command line that runs the workflow in a new folder."""
    shutil.copytree(REPOSITORY / "resources", directory / "resources")
    path = directory / "bench.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile"]
    command += ["--directory", directory, "--configfile", path]
    command += ["--profile", REPOSITORY / "profiles" / "local", "--cores", os.cpu_count()]
    return list(map(str, command))
