"""Write the gallery of one dataset: a folder with a static page to open in a browser.

Options that take SPLIT are repeated for every split. The shards of all stages must be given in the
same order.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.gallery import site
from workflow_scripts.maskdistill.gallery.stage_files import GalleryInputs


def main(argv: list[str] | None = None) -> int:
    """Write the gallery's folder; exit code 0."""
    parser = cli.Parser("write_gallery", __doc__)
    cli.add_root(parser)
    parser.add_argument("--dataset", required=True, help="the dataset's name")
    _add_shards(parser, "--images", "manifest shards", required=True)
    _add_shards(parser, "--masks", "masks")
    _add_shards(parser, "--assignments", "clusters of the masks, as shards or as one file")
    _add_shards(parser, "--candidates", "candidates of Mask R-CNN")
    _add_shards(parser, "--confident", "confident candidates")
    parser.add_input(
        "--step",
        words=2,
        action="append",
        nargs="+",
        default=[],
        metavar=("SPLIT", "STEP SHARD"),
        help="label maps of a step: split, name of the step, shards; repeat for every step",
    )
    parser.add_input("--map", help="output of map_masks")
    parser.add_input("--metrics", help="metrics.json of evaluate, if the dataset has labels")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)

    steps: dict[str, dict[str, list[Path]]] = {}
    for split, name, *paths in options.step:
        steps.setdefault(split, {})[name] = [Path(path) for path in paths]
    site.write(
        GalleryInputs(
            dataset=options.dataset,
            root=options.root,
            settings=options.settings,
            images=_by_split(options.images),
            masks=_by_split(options.masks),
            assignments=_by_split(options.assignments),
            candidates=_by_split(options.candidates),
            confident=_by_split(options.confident),
            steps=steps,
            mask_map=options.map,
            metrics=(
                read_json(options.metrics, remedy="run evaluate first") if options.metrics else None
            ),
        ),
        options.output,
        record=cli.record(options, "gallery"),
        workers=options.workers,
    )
    return 0


def _add_shards(parser: cli.Parser, option: str, what: str, required: bool = False) -> None:
    parser.add_input(
        option,
        words=1,
        action="append",
        nargs="+",
        default=None if required else [],
        required=required,
        metavar=("SPLIT", "SHARD"),
        help=what,
    )


def _by_split(groups: list[list[str]]) -> dict[str, list[Path]]:
    return {split: [Path(path) for path in paths] for split, *paths in groups}


if __name__ == "__main__":
    cli.run(main)
