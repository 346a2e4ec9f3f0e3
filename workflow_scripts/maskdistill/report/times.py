"""Time and memory of every rule, from Snakemake's benchmark files."""

import csv
import functools
import re
from collections import defaultdict
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path

from workflow_scripts.maskdistill.data.datasets import SPLITS
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.rule_texts import benchmark_paths


def timings(benchmarks: Path | None, splits: Collection[str], seeds: Collection[int]) -> list[dict]:
    """Number of jobs, seconds and peak memory (MB) of every rule, in the workflow's order.

    Ablations and the seeds that only they use are left out.

    Args:
        benchmarks: folder of a dataset's benchmark files, benchmarks/DATASET, if there is one; what
            was measured lies in results/DATASET next to it.
        splits: names of its splits.
        seeds: the run's own.
    """
    if benchmarks is None or not benchmarks.is_dir():
        return []
    jobs = defaultdict(list)
    own = {f"seed-{seed}" for seed in seeds}
    results = benchmarks.parent.parent / "results" / benchmarks.name
    for path in sorted(benchmarks.rglob("*.tsv")):
        first = path.relative_to(benchmarks).parts[0]
        if first == "ablations" or (first.startswith("seed-") and first not in own):
            continue
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                rule = rule_of_benchmark(path.relative_to(benchmarks), splits, results)
                jobs[rule].append((_float(row.get("s")), _float(row.get("max_rss"))))
    total = sum(seconds for found in jobs.values() for seconds, _ in found)
    order = {rule: number for number, rule in enumerate(benchmark_paths(REPOSITORY))}
    return [
        {
            "rule": rule,
            "jobs": len(found),
            "sum": sum(seconds for seconds, _ in found),
            "max": max(seconds for seconds, _ in found),
            "memory": max(memory for _, memory in found),
            "share": sum(seconds for seconds, _ in found) / total if total else 0.0,
        }
        for rule, found in sorted(
            jobs.items(), key=lambda job: order.get(job[0].partition(" or ")[0], len(order))
        )
    ]


def rule_of_benchmark(path: Path, splits: Collection[str], results: Path) -> str:
    """The rule that a benchmark file belongs to, by the paths that the rules name.

    Of several rules that write the same file, the provenance of the file says which one did; it has
    the same stem as the benchmark.

    Args:
        path: relative to the dataset's benchmarks, e.g. `seed-0/val/candidates/0003.tsv`.
        splits: names of the dataset's splits.
        results: folder of the dataset's results.
    """
    matching = {
        rule: pattern.groups
        for rule, pattern in _patterns(tuple(splits)).items()
        if pattern.fullmatch(path.as_posix())
    }
    # exports/model is not one of exports/{format}.
    rules = [rule for rule, count in matching.items() if count == min(matching.values())]
    made = results / path.with_suffix(".parquet")
    if len(rules) > 1 and made.is_file():
        return shards.read_metadata(made).get("program", rules[0])
    return " or ".join(rules) or path.with_suffix("").as_posix()


@functools.cache
def _patterns(splits: tuple[str, ...]) -> dict[str, re.Pattern]:
    """Rule → the paths of its benchmarks, a group for each wildcard."""
    folders = "|".join(["applied/[^/]+", *SPLITS, *map(re.escape, splits)])
    numbers = {"shard": r"\d{4}", "seed": r"\d+", "round": r"\d+", "in_round": r"round-\d+/"}
    known = {"split": folders, **numbers}
    found = {}
    for rule, path in benchmark_paths(REPOSITORY).items():
        parts = re.split(r"{(\w+)}", path)
        wildcards = [f"({known.get(name, '[^/]+')})" for name in parts[1::2]]
        texts = map(re.escape, parts[::2])
        found[rule] = re.compile("".join(map("".join, zip_longest(texts, wildcards, fillvalue=""))))
    return found


def _float(text: str | None) -> float:
    """A cell of a benchmark file; Snakemake writes `-` or `NA` where it could not measure."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
