"""Reads rules, paths of benchmarks and names of parameters from the rules' files."""

import functools
import re
from pathlib import Path

_INCLUDE = re.compile(r'^include: "(.+)"$', re.MULTILINE)
_RULE = re.compile(r"^(?:rule|use rule \w+ as) (\w+)(?::| with:)\n((?:    .*\n|\n)+)", re.MULTILINE)
_BENCHMARK = re.compile(r'^    benchmark:\n        "benchmarks/{\w+}/(.+)"$', re.MULTILINE)
_PARAMETERS = re.compile(r"^    params:\n((?:        .*\n)+)", re.MULTILINE)


@functools.cache
def rule_texts(home: Path) -> dict[str, str]:
    """Rule → its text below its first line, in the order of the workflow.

    Args:
        home: folder of the repository, with its Snakefile.
    """
    files = _INCLUDE.findall((home / "Snakefile").read_text(encoding="utf-8"))
    texts = [(home / name).read_text(encoding="utf-8") for name in files]
    return dict(_RULE.findall("\n".join(texts)))


def benchmark_paths(home: Path) -> dict[str, str]:
    """Rule → path of its benchmark below the folder of a dataset, wildcards in braces."""
    found = {rule: _BENCHMARK.search(text) for rule, text in rule_texts(home).items()}
    return {rule: match[1] for rule, match in found.items() if match}


def parameters(rule: str, home: Path) -> list[str]:
    """Names of the parameters of a rule; an empty list for an unknown rule."""
    match = _PARAMETERS.search(rule_texts(home).get(rule, ""))
    return re.findall(r"^        (\w+)=", match[1], re.MULTILINE) if match else []
