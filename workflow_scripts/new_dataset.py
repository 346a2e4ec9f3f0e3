"""Look at a folder of images and write config/datasets/NAME.yaml for it, ready to run.

The layouts of PASCAL VOC and COCO are recognised, with their labels; any other folder is read as
images without labels. Comments in the file explain the chosen values. No stage is run, and no image
is changed.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets, layouts, survey
from workflow_scripts.maskdistill.errors import InputError, printable
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.inspection import terminal
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import forecast, new_dataset, schedule
from workflow_scripts.maskdistill.settings.checks import untrained
from workflow_scripts.maskdistill.settings.downloads import read_catalogue
from workflow_scripts.maskdistill.settings.layers import known_datasets, read_preset
from workflow_scripts.maskdistill.settings.section import FileName, checked
from workflow_scripts.maskdistill.settings.sections.images import ImageSettings

FOLDER = Path("config/datasets")
FOLDERS = [FOLDER, REPOSITORY / FOLDER]
EVENING = 4.0  # default time for a run, in hours
FEW_IMAGES = 50  # with fewer images a warning is printed


def main(argv: list[str] | None = None) -> int:
    """Write the file and print what the run will take; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="new_dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="name of the dataset and of its results")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the images")
    parser.add_argument(
        "--preset", help="a file config/presets/PRESET.yaml; by default the one for this machine"
    )
    parser.add_argument(
        "--backbone", help="timm's name of the vision transformer; by default that of the preset"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="file with the weights of the vision transformer; by default that of the preset",
    )
    parser.add_argument(
        "--hours", type=float, default=EVENING, help="how long the run may take on this machine"
    )
    parser.add_argument(
        "--sample", type=int, default=2000, help="images to decode at most, to describe the folder"
    )
    parser.add_argument("--force", action="store_true", help="replace the dataset's file")
    options = parser.parse_args(argv)
    check_options(options)

    machine = schedule.this_machine()
    layout = layouts.recognise(options.folder)
    listings = {
        split: datasets.list_split(layout.dataset, options.folder, split)
        for split in layout.dataset["splits"]
    }
    found = survey.survey(
        new_dataset.whole(listings.values()),
        options.folder,
        ImageSettings().plain_limits(),
        sample=options.sample,
        workers=machine.cores,
    )
    print(f"{options.folder}: {layout.title}")
    facts = [*survey.lines(found), *layout.notes]
    print("\n".join(f"  {fact}" for fact in facts))
    if not found.read:
        raise InputError(f"{options.folder}: none of its images can be read")

    counts = {split: len(listing.images) for split, listing in listings.items()}
    preset = options.preset or new_dataset.preset_for(machine, FOLDERS)
    lines, seconds, config = new_dataset.compose(
        options.name,
        layout,
        found,
        counts,
        preset=preset,
        hours=options.hours,
        machine=machine,
        folders=FOLDERS,
        transformer=new_dataset.transformer_lines(options.backbone, options.weights),
    )
    command = shlex.join(["new_dataset", *(sys.argv[1:] if argv is None else argv)])
    header = [f"Written by `python -m workflow_scripts.{command}`, which found:"]
    header += [f"- {printable(fact)}" for fact in facts]
    path = FOLDER / f"{options.name}.yaml"
    write_text(path, new_dataset.render(header, lines))
    print("\n".join(outlook(options.name, seconds, config, counts, preset, machine)))
    print(f"\nwritten: {path}. Look at it, then run:\n")
    print(f"  snakemake --profile profiles/local all --config datasets='[{options.name}]'")
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Check all options, and that no file would be overwritten.

    Raises:
        InputError: an option is wrong; the message names it and the remedy.
    """
    checked(
        lambda: TypeAdapter(FileName).validate_python(options.name), options.name, section="NAME"
    )
    path = FOLDER / f"{options.name}.yaml"
    if path.exists() and not options.force:
        raise InputError(f"{path} exists already; choose another NAME, or replace it with --force")
    if options.name in known_datasets([REPOSITORY / FOLDER]) and not path.exists():
        raise InputError(
            f"NAME: {options.name!r} is a dataset of this repository; choose another NAME"
        )
    if options.hours <= 0 or options.sample < 1:
        raise InputError("--hours and --sample must be greater than 0")
    if options.preset is not None:
        read_preset(options.preset, FOLDERS, Path("--preset"))
    if options.backbone is not None and options.weights is None:
        raise InputError("--backbone needs --weights with a file of this transformer's weights")
    if options.weights is not None and not options.weights.is_file():
        raise InputError(f"--weights: {options.weights} is not a file")


def outlook(
    name: str,
    seconds: Mapping[str, float],
    config: Mapping,
    counts: Mapping[str, int],
    preset: str,
    machine: schedule.Machine,
) -> list[str]:
    """Lines with the run's expected time and disk space, and with warnings."""
    device = machine.gpu or f"{machine.cores} CPU cores, without a GPU"
    rows = [(rule, duration(one)) for rule, one in seconds.items()]
    rows.append(("total", duration(sum(seconds.values()))))
    result = ["", f"Expected time on this machine ({device}; preset {preset}):", ""]
    result += terminal.table(("rule", "time"), rows)
    disk = forecast.disk_bytes(config, counts, forecast.networks_of(config))
    result += ["", f"Space on the disk: up to {terminal.size(sum(disk.values()))}"]
    catalogue = read_catalogue(REPOSITORY / "resources" / "downloads.yaml")
    sizes, _ = forecast.download_sizes([config], catalogue)
    result += [
        f"Downloaded once: {path} ({terminal.size(size)})"
        for path, size in sizes.items()
        if not Path(path).exists()
    ]
    if machine.gpu is None:
        result.append(
            "Without a GPU this is a rough estimate, based on the measured time of one stage."
        )
    result += [
        f"Warning: {stage} starts from random numbers; set {stage}.weights"
        for stage in untrained(config)
    ]
    if counts["train"] < FEW_IMAGES:
        result.append(
            f"Warning: {counts['train']:,} images are few; the method needs hundreds to find kinds "
            "of objects"
        )
    result.append(
        f"make plan DATASET={name} prints the jobs, and the measurements behind these times."
    )
    return result


def duration(seconds: float) -> str:
    """A duration as text, in minutes or, from an hour on, in hours with one decimal."""
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    cli.run(main)
