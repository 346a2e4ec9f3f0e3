"""Write use.json, the settings that `apply` needs in addition to the trained models.

`apply` looks for this file in the folder of the model and in the two folders above. Single images
are then processed as in the workflow: with the same confidence threshold, selection of candidates,
precision, CRF and names of clusters.
"""

import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.files import atomic


def main(argv: list[str] | None = None) -> int:
    """Write the file; exit code 0."""
    parser = cli.Parser("describe_use", __doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(argv)
    settings = options.settings
    content = {
        "provenance": cli.record(options, "use"),
        **{name: dict(settings[name]) for name in ("candidates", "confidence", "predictions")},
        "crf": dict(settings["crf"]) if settings["crf"]["enabled"] else None,
        "names": settings["curation"]["names"],
    }
    atomic.write_text(options.output, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
