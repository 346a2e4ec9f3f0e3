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

    Jobs of ablations are left out, and so are jobs of seeds that only ablations use.

    Args:
        benchmarks: folder of a dataset's benchmark files, benchmarks/DATASET; None or a missing
            folder gives an empty list. The outputs of the measured jobs are in results/DATASET.
        splits: names of the dataset's splits.
        seeds: seeds of the run without its ablations.
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
    """The rule whose `benchmark:` path matches the path of a benchmark file.

    Several rules may write the same output, with the same path of the benchmark. Then the
    provenance of the output says which rule wrote it. Output and benchmark have the same stem.

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
    # The pattern with the fewest wildcards fits best: exports/model also matches exports/{format}.
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
    """A number of a benchmark file; 0 for `-` and `NA`, if Snakemake could not measure it."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
