"""Write scored candidates as a COCO results list, ready for `COCO.loadRes` of pycocotools."""

import itertools
import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.files import atomic, coco_json, provenance, shards


def main(argv: list[str] | None = None) -> int:
    """Write the JSON list; exit code 0."""
    parser = cli.Parser("write_results", __doc__)
    parser.add_input("--images", nargs="+", required=True, help="manifests")
    cli.add_max_rejected(parser)
    parser.add_input("--candidates", nargs="+", required=True, help="candidates, shards")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(argv)

    manifest = shards.read_table(options.images, ["file_name", "status"]).to_pylist()
    datasets.check_rejected(manifest, options.max_rejected, str(options.images[0].parent))
    rows = itertools.chain.from_iterable(map(shards.read_rows, options.candidates))
    with (
        atomic.atomic_path(options.output) as temporary,
        open(temporary, "w", encoding="ascii") as file,
    ):
        file.write("[")
        for number, result in enumerate(coco_json.results(rows)):
            file.write((",\n" if number else "\n") + json.dumps(result))
        file.write("\n]\n")
    # The record is in a separate file, because a results list is a plain array.
    provenance.write_record(options.output, cli.record(options, "results"))
    return 0


if __name__ == "__main__":
    cli.run(main)
