"""Measure masks, clusters and trained models on photographs that have class masks.

DATA is a folder in PASCAL VOC's layout: JPEGImages, SegmentationClass, and the lists train.txt and
val.txt in ImageSets/Segmentation. Only labels of val are read, to compute scores. The workflow runs
in --work-dir; if it was interrupted, run the same command again to continue. All results so far are
printed, and written to photos.md and photos.json in that folder.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.__main__ import machine
from tests.bench.photos import token_cut, workflow
from tests.bench.photos.measure import Measurement
from tests.bench.photos.plan import (
    SPLITS,
    Plan,
    Row,
    choose_photographs,
    parse_transformer,
    write_plan,
)
from tests.bench.photos.table import table
from workflow_scripts.maskdistill.discovery.features import load_backbone
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.variants import MAIN
from workflow_scripts.maskdistill.settings.layers import read_yaml
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings

STAGES = ("masks", "clusters", "end")
ROWS = ("paper", "centred", "standard", "preset", "lost", "dino_seg", token_cut.NAME)


def main(argv: list[str] | None = None) -> int:
    """Run what `argv` asks for, and print the table; exit code 1 if a part failed."""
    options = _parser().parse_args(argv)
    photographs = choose_photographs(options.data, options.work_dir, options.images)
    classes = options.classes or _voc_classes()
    plans: dict[str, Plan] = {}
    for text in options.backbone:
        plan = write_plan(
            parse_transformer(text),
            photographs,
            options.work_dir,
            preset=options.preset,
            classes=classes,
            clusters=options.clusters,
            seeds=options.seeds,
            taken=plans,
        )
        plans[plan.dataset] = plan
    running = workflow.Workflow(
        options.work_dir, list(plans.values()), cores=options.cores, device=options.device
    )
    measurements = {name: Measurement(plan, photographs, running) for name, plan in plans.items()}
    rows = {
        name: [row for row in plan.rows if names_of(row) & set(options.rows)]
        for name, plan in plans.items()
    }

    def report() -> str:
        """Compute scores of all outputs so far, and write them; returns the table."""
        measured = {
            "machine": machine(),
            "data": str(photographs.root),
            "images": photographs.counts,
            "clusters": options.clusters,
            "seeds": options.seeds,
            "preset": options.preset,
            "transformers": [
                one.values(rows[name], options.seeds, clusters=options.until != "masks")
                for name, one in measurements.items()
            ],
        }
        text = table(measured)
        write_text(options.work_dir / "photos.json", json.dumps(measured, indent=1) + "\n")
        write_text(options.work_dir / "photos.md", text)
        return text

    failed = [] if options.table_only else _run(options, running, plans, rows, measurements, report)
    print(f"\n{report()}")
    print(f"This table and all numbers are in {options.work_dir}/photos.md and photos.json")
    if failed:
        print(f"error: {', '.join(failed)} failed, see above; run it again", file=sys.stderr)
    return int(bool(failed))


def names_of(row: Row) -> set[str]:
    """What `--rows` calls a row: the run's own masks are always those of the preset."""
    return {row.key, "preset"} if row.variant == MAIN else {row.key}


def _run(options, running, plans, rows, measurements, report) -> list[str]:
    """Run the workflow as far as --until says; returns the names of the parts that failed."""
    splits = SPLITS[1:] if options.until == "masks" else SPLITS
    _check_weights(plans.values(), running, splits)
    failed = []

    def run(what: str, targets: Sequence[str]) -> None:
        if not running.run(what, targets):
            failed.append(what)

    run("features", [path for plan in plans.values() for path in workflow.features(plan, splits)])
    if failed:
        return failed
    for name, plan in plans.items():
        if any(row.key == token_cut.NAME for row in rows[name]):
            running.cut_with_token_cut(plan, splits)
    run(
        "masks",
        [
            path
            for name, plan in plans.items()
            for row in rows[name]
            if row.key != token_cut.NAME
            for path in workflow.masks(plan, row.variant, splits)
        ],
    )
    if options.until == "masks":
        return failed
    report()
    run(
        "clusters",
        [
            path
            for name, plan in plans.items()
            for row in rows[name]
            if measurements[name].can_be_clustered(row)
            for seed in options.seeds
            for path in workflow.initial_label_maps(plan, row.variant, seed)
        ],
    )
    for plan in plans.values():
        running.check_token_cut(plan)
    if options.until == "end":
        report()
        run(
            "later steps",
            [workflow.metrics(plan, seed) for plan in plans.values() for seed in options.seeds],
        )
    return failed


def _check_weights(plans, running: workflow.Workflow, splits: Sequence[str]) -> None:
    """Check that all weights can be loaded, before hours of work begin.

    Transformers whose features exist already are not checked.

    Raises:
        InputError: weights do not fit their transformer.
    """
    for plan in plans:
        if not all(running.path(path).is_file() for path in workflow.features(plan, splits)):
            load_backbone(FeatureSettings.read(plan.config["features"]), "cpu")


def _voc_classes() -> list[str]:
    return read_yaml(REPOSITORY / "config" / "datasets" / "voc2012_quick.yaml")["dataset"][
        "classes"
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "photos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder in VOC's layout")
    parser.add_argument(
        "--backbone",
        action="append",
        required=True,
        metavar="NAME=WEIGHTS[@SECTION.KEY=VALUE…]",
        help="a vision transformer: its name in timm, a file with its weights, and optional "
        "settings for it with values in YAML; repeat the option for further transformers",
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("results/photos"),
        help="folder for all outputs (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        type=int,
        help="photographs per split, chosen by a hash of their names (default: all)",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of clusterings and trainings"
    )
    parser.add_argument("--clusters", type=int, default=20, help="number of clusters (%(default)s)")
    parser.add_argument(
        "--preset", default="quick", help="preset of the later steps (default: %(default)s)"
    )
    parser.add_argument(
        "--classes", nargs="+", help="names of the labels 1, 2, … (default: classes of VOC)"
    )
    parser.add_argument(
        "--until",
        choices=STAGES,
        default="end",
        help="last part to measure (default: %(default)s)",
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="masks to compare")
    parser.add_argument(
        "--cores",
        type=int,
        default=os.cpu_count(),
        help="the most CPU cores to use (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (%(default)s)")
    parser.add_argument(
        "--table-only",
        action="store_true",
        help="do not run the workflow; compute scores of the files that exist",
    )
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
