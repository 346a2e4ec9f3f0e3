"""Generate the demo dataset: scenes of textured shapes with ground truth, laid out like VOC.

The file given as --output is written last and marks its folder as complete.
"""

import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.demo import scenes, things
from workflow_scripts.maskdistill.files import atomic


def main(argv: list[str] | None = None) -> int:
    """Write the dataset into the folder of `--output`; exit code 0."""
    parser = cli.Parser("make_demo_dataset", __doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON file to write, in the dataset's folder"
    )
    options = parser.parse_args(argv)
    settings = options.settings["dataset"]["generate"]

    with atomic.report_full_disk(options.output.parent):
        scenes.write_voc_tree(options.output.parent, **settings)
    record = cli.record(options, "scenes")
    description = {**settings, "classes": things.CLASS_NAMES, "provenance": record}
    atomic.write_text(options.output, json.dumps(description, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
