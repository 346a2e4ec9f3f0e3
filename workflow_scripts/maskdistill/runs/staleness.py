"""Which jobs Snakemake would run, and why, as readable text.

This starts a dry run of Snakemake and reads the reasons from its log.
"""

import ast
import functools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from snakemake import cli as snakemake
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.code_digest import code_digest
from workflow_scripts.maskdistill.runs.rule_texts import parameters
from workflow_scripts.maskdistill.runs.run import parts_of
from workflow_scripts.maskdistill.settings.changes import changed_settings

# Parameter of a rule, other than settings and code → what it means if the parameter has changed.
OTHER_PARAMETERS = {
    "listing": "images were added, removed or replaced",
    "labels": "labels were added, removed or replaced",
    "weights": "the file of the weights has other content than before",
    "label_maps": "the model is trained on other label maps",
    "steps": "other steps are evaluated",
    "tokens": "the model predicts from stored tokens, or no longer does",
    "metrics": "other metrics are exported",
    "step": "the model of another round is exported",
    "options": "other files or stages are shown, or the page that shows them has changed",
    "option": "boxes are painted in another way",
    "left_out": "other tables and figures are left out",
}
# Snakemake's words for the parts of a reason.
UPSTREAM = "Input files updated by another job"
PARAMETERS = "Params have changed since last execution"
EXPLAINED = {
    "Missing output files": "not made yet: {files}",
    "Incomplete output files": "was killed while writing: {files}",
    "Updated input files": "changed input: {files}",
    "Set of input files has changed since last execution": "other input files",
    "Code has changed since last execution": "the rule's command changed",
    "Software environment definition has changed since last execution": "envs/ changed",
    "Forced execution": "forced",
}
_PARTS = re.compile("; (?=" + "|".join(map(re.escape, [UPSTREAM, PARAMETERS, *EXPLAINED])) + ")")


@dataclass(frozen=True)
class Job:
    """A job that Snakemake would run."""

    rule: str
    dataset: str
    outputs: tuple[str, ...]
    reason: str  # in Snakemake's words

    @property
    def upstream(self) -> list[str]:
        """Input files of this job that other jobs would make."""
        parts = [part.partition(": ") for part in _PARTS.split(self.reason)]
        return [path for what, _, rest in parts if what == UPSTREAM for path in rest.split(", ")]


def plan(arguments: Iterable[str]) -> list[Job]:
    """Let Snakemake plan a run, without running it.

    Returns:
        The jobs that Snakemake would run, in an order that respects their dependencies.

    Raises:
        SystemExit: the dry run failed; Snakemake has already printed the reason.
    """
    collector = _Collector()
    logger.addFilter(collector)
    try:
        snakemake.main(["--dry-run", *arguments])
    except SystemExit as end:
        if end.code:
            raise
    finally:
        logger.removeFilter(collector)
    return collector.jobs


class _Collector(logging.Filter):
    """Collects jobs from Snakemake's log, and lets only warnings and errors pass."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []

    def filter(self, record: logging.LogRecord) -> bool:
        # Jobs without wildcards only collect files, such as `all`. Downloads have no dataset.
        if getattr(record, "event", None) == LogEvent.JOB_INFO and record.wildcards:
            run = record.wildcards.get("run") or record.wildcards.get("dataset", "-")
            dataset = parts_of(run).dataset
            outputs = tuple(map(str, record.output))
            self.jobs.append(Job(record.rule_name, dataset, outputs, record.reason))
        return record.levelno >= logging.WARNING


def describe(jobs: Iterable[Job]) -> str:
    """A table of dataset, stage, number of jobs and reasons, with one reason per line."""
    jobs = list(jobs)
    if not jobs:
        return "Nothing is stale."
    stages: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        stages.setdefault((job.dataset, job.rule), []).append(job)
    order = {rule: number for number, (_, rule) in enumerate(stages)}
    makers = {output: job.rule for job in jobs for output in job.outputs}
    rows = [("dataset", "stage", "jobs", "why")]
    for (dataset, rule), members in stages.items():
        counts = Counter(why for job in members for why in dict.fromkeys(reasons(job)))
        shown = [
            why if count == len(members) else f"{count} of them: {why}"
            for why, count in counts.items()
        ]
        if not all(any(reasons(job)) for job in members):
            changed = {makers[path] for job in members for path in job.upstream if path in makers}
            # Several stages may change the input of this one; only the nearest is named.
            shown.append(f"follows {max(changed, key=order.get)}" if changed else "other stages")
        for number, why in enumerate(shown):
            head = (dataset, rule, str(len(members))) if number == 0 else ("", "", "")
            rows.append((*head, why))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {why}" for a, b, c, why in rows]
    names = {rule for _, rule in stages}
    return "\n".join(
        [*lines, "", f"{len(jobs)} jobs of {len(names)} stages; all other files are up to date."]
    )


def reasons(job: Job) -> Iterator[str]:
    """Readable reasons for a job, except inputs that other jobs make."""
    for part in _PARTS.split(job.reason):
        what, _, rest = part.partition(": ")
        if what == PARAMETERS:
            yield from _changed_parameters(job.rule, rest)
        elif what in EXPLAINED:
            files = rest.split(", ")
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            # Without shard numbers, jobs of one stage have the same reason and share a line.
            yield EXPLAINED[what].format(files=re.sub(r"\b\d{4}\.", "*.", files[0]) + more)
        elif what != UPSTREAM:
            yield part


def _changed_parameters(rule: str, text: str) -> Iterator[str]:
    """Changed settings with their old and new values, and other parameters that have changed."""
    before, after = (
        _values(part) for part in text.partition(" before: ")[2].rsplit(" now: ", maxsplit=1)
    )
    old, new = ([v for v in values if isinstance(v, dict)] for values in (before, after))
    if old and new:
        yield from changed_settings(old[0], new[0])
    texts = [value for value in after if isinstance(value, str)]
    if codes() & set(texts):
        yield f"code of {rule} or of a module that it imports"
    if set(texts) - codes():
        others = [OTHER_PARAMETERS.get(name) for name in parameters(rule, REPOSITORY)]
        yield ", or ".join(filter(None, others)) or "other parameters"


@functools.cache
def codes() -> set[str]:
    """Digests of the code of all programs."""
    paths = sorted((REPOSITORY / "workflow_scripts").glob("*.py"))
    return {code_digest(f"workflow_scripts.{path.stem}", REPOSITORY) for path in paths}


def _values(text: str) -> list:
    """The values in Snakemake's list of parameters; settings become mappings."""
    if text.strip() == "<nothing exclusive>":
        return []
    values = ast.literal_eval(f"[{text}]")
    return [
        json.loads(value) if isinstance(value, str) and value.startswith("{") else value
        for value in values
    ]
