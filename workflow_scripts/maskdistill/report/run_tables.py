"""Tables of a run: outputs of every stage, settings, and provenance."""

from collections import Counter
from collections.abc import Mapping, Sequence

from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.files.json_io import leaves
from workflow_scripts.maskdistill.report.inputs import ReportInputs, read


def counts(inputs: ReportInputs, manifest: Mapping[str, Sequence[Mapping]]) -> list[dict]:
    """Outputs of every stage: rows, images, and rows by status."""
    result = []
    for split, rows in manifest.items():
        statuses = Counter("ok" if row["status"] == shards.OK else "rejected" for row in rows)
        result.append(_count("images", split, rows, statuses))
    for split, paths in inputs.masks.items():
        rows = read(paths, ["image_id", "status"])
        result.append(_count("masks", split, rows, Counter(row["status"] for row in rows)))
    for stage, by_split in (("candidates", inputs.candidates), ("confident", inputs.confident)):
        for split, paths in by_split.items():
            rows = read(paths, ["image_id"])
            empty = len(
                {r["image_id"] for r in manifest.get(split, []) if r["status"] == shards.OK}
                - {row["image_id"] for row in rows}
            )
            statuses = {"images without any": empty} if empty else {}
            result.append(_count(stage, split, rows, statuses))
    return result


def _count(stage: str, split: str, rows: Sequence[Mapping], statuses: Mapping[str, int]) -> dict:
    return {
        "stage": stage,
        "split": split,
        "rows": len(rows),
        "images": len({row["image_id"] for row in rows}),
        "statuses": sorted(statuses.items(), key=lambda item: (item[0] != shards.OK, item[0])),
    }


def sections(settings: Mapping) -> list[dict]:
    """The settings by section; nested keys become dotted names."""
    return [
        {
            "name": name,
            "rows": list(leaves(value) if isinstance(value, Mapping) else [("", value)]),
        }
        for name, value in settings.items()
    ]


def sources(inputs: ReportInputs) -> list[tuple[str, str, object]]:
    """(stage, key, value) from the provenance of each stage's first shard.

    Settings, versions and input files are left out. What remains is, for example, the checksum of
    the weights.
    """
    first_files = [
        paths[0]
        for by_name in (inputs.masks, inputs.candidates, inputs.confident, inputs.steps)
        for paths in by_name.values()
        if paths
    ]
    found = {}
    for path in [*first_files, *inputs.assignments[:1]]:
        metadata = shards.read_metadata(path)
        stage = metadata.pop("stage", "")
        details = {k: v for k, v in metadata.items() if k not in ("settings", "versions", "inputs")}
        found |= {(stage, key): value for key, value in leaves(details)}
    return [(stage, key, value) for (stage, key), value in found.items()]
