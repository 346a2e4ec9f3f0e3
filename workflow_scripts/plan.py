"""Print jobs, GPU hours and disk space of a run, without running anything.

The jobs are those that Snakemake's dry run lists. The hours are estimated from
resources/throughput.json, which also names the source of each number. They count all jobs of a
rule, including those that are already done. On a machine without a GPU, another column shows the
hours that its processor would take.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.inspection import terminal
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import forecast, schedule
from workflow_scripts.maskdistill.settings.checks import untrained, untrained_warning
from workflow_scripts.maskdistill.settings.downloads import read_catalogue
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml
from workflow_scripts.maskdistill.settings.whole_config import dataset_config


def main(argv: list[str] | None = None) -> int:
    """Print the plan; exit code 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a file config/datasets/DATASET.yaml")
    parser.add_argument(
        "--configfile", type=Path, help="file with overrides, as `snakemake --configfile` takes it"
    )
    parser.add_argument(
        "--throughput",
        type=Path,
        default=REPOSITORY / "resources" / "throughput.json",
        help="JSON file with the seconds that every rule takes",
    )
    options = parser.parse_args(argv)
    config = read_yaml(REPOSITORY / "config" / "default.yaml")
    if options.configfile:
        config = merge(config, read_yaml(options.configfile))
    throughput = read_json(options.throughput, remedy="check --throughput")
    catalogue = read_catalogue(REPOSITORY / "resources" / "downloads.yaml")
    print("\n".join(lines(options, config, catalogue, throughput)))
    return 0


def lines(options, config: dict, catalogue: dict, throughput: dict) -> list[str]:
    """The plan, line by line."""

    def read(name: str) -> dict:
        folders = [Path("config/datasets"), REPOSITORY / "config" / "datasets"]
        return dataset_config(name, config, folders, downloadable=catalogue["files"])

    own = read(options.dataset)
    configs = {options.dataset: own} | {name: read(name) for name in own["clustering"]["support"]}
    counts = {name: forecast.split_counts(one, catalogue) for name, one in configs.items()}
    jobs = planned_jobs(options.dataset, options.configfile)

    machine = schedule.this_machine()
    seconds: Counter[str] = Counter()
    on_processor: Counter[str] = Counter()
    disk: Counter[str] = Counter()
    for name, one in configs.items():
        networks, support = forecast.networks_of(one), name != options.dataset
        estimated = (one, counts[name], throughput["rules"], networks)
        seconds.update(forecast.gpu_seconds(*estimated, support=support))
        on_processor.update(schedule.seconds_of(*estimated, machine, support=support))
        disk.update(forecast.disk_bytes(one, counts[name], networks, support=support))
    downloads, unknown = forecast.download_sizes(list(configs.values()), catalogue)

    result = [f"{name}: {split_text(counts[name])}" for name in configs]
    result += ["", f"Jobs to run, and GPU hours expected on one {throughput['gpu']}:", ""]
    columns, header = [seconds], ["rule", "jobs", "GPU hours"]
    if machine.gpu is None:
        columns.append(on_processor)
        header.append(f"hours on {machine.cores} CPU cores")
    rows = [(rule, n, *(hours(one.get(rule)) for one in columns)) for rule, n in jobs.items()]
    rows.append(("total", sum(jobs.values()), *(hours(sum(one.values())) for one in columns)))
    result += terminal.table(header, rows)
    if machine.gpu is None:
        result += ["", "This machine has no GPU; the hours on its processor are a rough estimate."]
        if own["dataset"]["generate"] is None:
            result += [
                f"{untrained_warning(stage)}; on this processor the training takes "
                f"{hours(on_processor[f'train_{stage}'])} hours, and the result will not be good"
                for stage in untrained(own)
            ]
    result += ["", "Rules with – use no GPU. The hours are computed from these times:", ""]
    result += [
        f"  {rule}: {one['seconds']} s a{'n' if one['per'][0] in 'aei' else ''} {one['per']}; "
        f"{one['basis']}"
        for rule, one in throughput["rules"].items()
        if rule in seconds
    ]
    result += ["", "Space on the disk, before compression:", ""]
    disk.update(downloads)
    rows = [(stage, terminal.size(size)) for stage, size in disk.items()]
    rows.append(("total", terminal.size(sum(disk.values()))))
    result += terminal.table(("stage", "space"), rows)
    result += [f"  not counted, because its size is not published: {url}" for url in unknown]
    return result


def split_text(counts: dict[str, int]) -> str:
    """Numbers of images as text."""
    return ", ".join(f"{count:,} images ({split})" for split, count in counts.items())


def hours(seconds: float | None) -> float | None:
    """Seconds as hours, to a tenth; None stays None, for rules that use no GPU."""
    return None if seconds is None else round(seconds / 3600, 1)


def planned_jobs(dataset: str, configfile: Path | None) -> dict[str, int]:
    """Rule → number of its jobs that Snakemake would run.

    Raises:
        InputError: Snakemake fails; the message is the last line of its output.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += [
        "--profile",
        str(REPOSITORY / "profiles" / "local"),
        "--dry-run",
        "--quiet",
        "rules",
    ]
    command += ["--configfile", str(configfile)] if configfile else []
    command += ["--config", f"datasets={json.dumps([dataset])}", "--", "all"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        words = [line for line in done.stdout.splitlines() if line.strip()]
        raise InputError(f"{dataset}: {words[-1] if words else 'snakemake failed'}")
    stats = done.stdout.partition("Job stats:")[2].partition("\n\n")[0]
    found = re.findall(r"^(\w+) +(\d+)$", stats, flags=re.MULTILINE)
    return {rule: int(n) for rule, n in found if rule not in ("all", "total")}


if __name__ == "__main__":
    cli.run(main)
