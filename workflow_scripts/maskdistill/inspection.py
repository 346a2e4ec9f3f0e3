"""What a file of this workflow is, how it was made, and what it holds, as text.

Every kind of file has one function here that describes it. What is damaged, or was not made by
this workflow, is an InputError of one line.
"""

import collections
import csv
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from workflow_scripts.maskdistill import images, label_maps, masks, shards, terminal
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.progress import progress

SAMPLE = 500  # label maps that are decoded, unless all are asked for
CLUSTERS_SHOWN = 24

STAGES = {
    "images": "manifest of the images",
    "features": "keys of the patches, and their affinity to [CLS]",
    "masks": "object masks from the affinities (Eq. 1 and 2)",
    "mask_embeddings": "[CLS] of the masked objects",
    "assignments": "clusters of the masks",
    "centroids": "centroids of the clusters",
    "candidates": "scored candidates of Mask R-CNN",
    "confident": "confident candidates",
    "label_maps": "label maps",
    "predictions": "label maps that the segmentation model predicts",
}
PER_CLASS = ["step", "class", "iou", "clusters"]
UNPACKED = ("label_maps", "predictions")
# Made for people and other tools, so that a folder's description leaves them out.
FOR_OTHERS = {"exports", "contact_sheets", "overlays", "labelmap.txt", "rejected.csv"}
GALLERY_INDEX = "index.js"
IDENTIFIERS = {"image_id", "mask_id", "candidate_id", "shard", "cluster"}

Lines = Iterator[str]


def expand(path: str) -> list[list[Path]]:
    """The files that a path stands for, those of one stage together.

    Args:
        path: a file, a pattern with `*`, or a folder, which stands for all of its files; label
            maps of a folder belong together.

    Raises:
        InputError: nothing is there.
    """
    if Path(path).exists():
        found = [Path(path)]
    else:
        found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]
    files: list[Path] = []
    groups: dict[tuple, list[Path]] = collections.defaultdict(list)
    for entry in found:
        if not entry.is_dir():
            files.append(entry)
            continue
        inside = sorted(
            f
            for f in entry.rglob("*")
            if f.is_file()
            and not f.name.startswith(".")
            and not FOR_OTHERS.intersection(f.relative_to(entry).parts)
        )
        galleries = [f.parent for f in inside if f.name == GALLERY_INDEX and _is_gallery(f)]
        for file in inside:
            if any(file.is_relative_to(folder) for folder in galleries):
                if file.name == GALLERY_INDEX:
                    files.append(file)
            elif file.suffix == ".png":
                # Unpacked label maps lie in folders like their images'.
                parts = file.relative_to(entry).parts
                groups[entry, *(part for part in parts[:1] if part in UNPACKED)].append(file)
            else:
                files.append(file)
    if not files and not groups:
        what = "an empty folder" if found else "no such file or folder"
        raise InputError(f"{path}: {what}; give an output of this workflow, such as results/demo")
    for file in files:
        if file.suffix == ".parquet" and file.stem.isdigit():
            groups[file.parent, "shards"].append(file)
        else:
            groups[file, "file"].append(file)
    return list(groups.values())


def describe(paths: Sequence[Path], *, sample: int = SAMPLE, check: bool = False) -> list[str]:
    """Describe files that belong together, as lines of text.

    Args:
        paths: one file, or the shards or label maps of one folder.
        sample: number of label maps that are decoded for statistics, evenly spread; 0 for all.
        check: also read every byte and decode every mask and label map.

    Raises:
        InputError: a file is missing, damaged, or none of this workflow's.
    """
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: empty file (0 bytes); remove it and run the workflow again")
    suffix = paths[0].suffix.lower()
    if suffix == ".parquet":
        return list(_parquet(paths, sample, check))
    if suffix == ".png":
        return list(_label_map_files(paths, sample if not check else 0))
    readers: dict[str, Callable[[Path], Lines]] = {
        ".json": _json,
        ".jsonl": _history,
        ".csv": _csv,
        ".tsv": _benchmark,
        ".pt": _model,
        ".pth": _model,
        ".safetensors": _model,
        ".html": _page,
        ".js": _gallery,
    }
    if suffix in readers:
        return list(readers[suffix](paths[0]))
    if suffix in images.SUFFIXES:
        return list(_picture(paths[0]))
    raise InputError(f"{paths[0]}: a foreign file: nothing of this workflow ends in {suffix!r}")


def overview(paths: Iterable[Sequence[Path]]) -> tuple[list[str], list[str]]:
    """One line for every group of files of a whole tree.

    Returns:
        The table's lines, and what is damaged or foreign.
    """
    rows, faults = [], []
    for group in paths:
        where = group[0] if len(group) == 1 else group[0].parent
        try:
            title = describe_kind(group)
        except InputError as error:
            faults.append(str(error))
            continue
        bytes_ = sum(path.stat().st_size for path in group)
        count = None
        if group[0].suffix == ".parquet":
            count = sum(_open(path).metadata.num_rows for path in group)
        rows.append([str(where), title, len(group), count, terminal.size(bytes_)])
    # Paths are there to be copied, so that none is cut.
    width = max([60, *(len(row[0]) for row in rows)])
    header = ["path", "what it is", "files", "rows", "size"]
    return terminal.table(header, rows, width=width), faults


def describe_kind(paths: Sequence[Path]) -> str:
    """What the files are, in a few words; cheaper than `describe`.

    Raises:
        InputError: damaged, or none of this workflow's.
    """
    if paths[0].suffix == ".parquet":
        for path in paths:
            _open(path)
        return _kind(paths[0])[1]
    if paths[0].suffix == ".png":
        return f"{len(paths):,} label maps as files"
    return describe(paths)[1].strip()


# Parquet


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: damaged, or not a Parquet file ({reason})") from error


def _kind(path: Path) -> tuple[str, str]:
    """Stage and title of a Parquet file, by its columns: some stages share a name."""
    names = pq.read_schema(path).names
    if names == PER_CLASS:
        return "per_class", "scores by class"
    stage = shards.read_metadata(path)["stage"]
    for candidate in (stage, *STAGES):
        if candidate in STAGES and names == shards.schema(candidate).names:
            return candidate, STAGES[candidate]
    raise InputError(
        f"{path}: of the stage '{stage}', but with other columns ({', '.join(names)}); "
        "it was made by another version of the workflow: run it again"
    )


def _parquet(paths: Sequence[Path], sample: int, check: bool) -> Lines:
    files = [_open(path) for path in paths]
    stage, title = _kind(paths[0])
    rows = sum(file.metadata.num_rows for file in files)
    bytes_ = sum(path.stat().st_size for path in paths)
    where = paths[0] if len(paths) == 1 else paths[0].parent
    of = f" in {len(paths)} shards" if len(paths) > 1 else ""
    yield terminal.plain(where)
    yield f"  {title}: {rows:,} rows{of}, {terminal.size(bytes_)}"
    if stage == "per_class":
        table = shards.read_table(paths, PER_CLASS)
        body = [list(row.values()) for row in table.to_pylist()]
        yield from ["", *terminal.table(PER_CLASS, body)]
        return
    yield from _provenance_of_shards(paths, stage)
    if stage in ("label_maps", "predictions"):
        yield from _label_map_shards(paths, rows, 0 if check else sample)
    else:
        yield from _columns(paths, stage)
    if check:
        yield from _check(paths, stage)


def _provenance_of_shards(paths: Sequence[Path], stage: str) -> Lines:
    """How they were made; all shards of a stage should be made alike."""
    found: dict[str, list[Path]] = collections.defaultdict(list)
    for path in paths:
        if _kind(path)[0] != stage:
            raise InputError(f"{path}: of another stage than {paths[0]}; give each by itself")
        found[json.dumps(shards.read_metadata(path), sort_keys=True)].append(path)
    yield from _provenance(json.loads(next(iter(found))))
    if len(found) > 1:
        yield ""
        yield f"  CAUTION: made in {len(found)} different ways, of which the first is shown:"
        for group in found.values():
            yield f"    {len(group)} files, {group[0].name} among them"


def _provenance(metadata: Mapping) -> Lines:
    """Settings, checksums and versions, as a block of facts."""
    pairs = [(key, _value(value)) for key, value in _flat(metadata.get("settings", {}))]
    pairs += [
        (key, _value(value))
        for key, value in _flat(
            {k: v for k, v in metadata.items() if k not in ("settings", "versions", "stage")}
        )
    ]
    versions = metadata.get("versions", {})
    if versions:
        pairs.append(("versions", ", ".join(f"{name} {v}" for name, v in versions.items())))
    if pairs:
        yield from ["", "  made with", *terminal.facts(pairs, indent=4)]


def _flat(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"


def _columns(paths: Sequence[Path], stage: str) -> Lines:
    """Statuses, rows an image, and the distribution of every column of numbers."""
    names = shards.schema(stage).names
    if "status" in names:
        statuses = shards.read_table(paths, ["status"])["status"].to_pylist()
        yield from _counts("status", collections.Counter(map(str, statuses)))
    if "image_id" in names:
        yield from _rows_an_image(paths, stage, names)
    plain = [
        field.name
        for field in shards.schema(stage)
        if (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
        and field.name not in IDENTIFIERS
    ]
    columns = {name: _numbers(shards.read_table(paths, [name])[name]) for name in plain} | _derived(
        paths, stage
    )
    yield from _distributions(columns)
    if "cluster" in names and stage != "centroids":
        yield from _clusters(shards.read_table(paths, ["cluster"])["cluster"])


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.drop_null().to_numpy()


def _derived(paths: Sequence[Path], stage: str) -> dict[str, np.ndarray]:
    """What can be worked out of a stage's columns and says more than they do."""
    if stage in ("masks", "candidates", "confident"):
        table = shards.read_table(paths, ["area", "height", "width"]).drop_null()
        share = pc.divide(table["area"], pc.multiply(table["height"], table["width"]))
        return {"area / image": _numbers(share)}
    if stage == "features":
        result = collections.defaultdict(list)
        for path in paths:
            columns = ["grid_height", "grid_width", "cls_affinity"]
            # A few rows at a time: keys and affinities are large.
            for row in shards.read_rows(path, columns, batch_size=16):
                if row["cls_affinity"] is not None:
                    patches = row["grid_height"] * row["grid_width"]
                    affinity = row["cls_affinity"].reshape(-1, patches)
                    mean = affinity.mean(axis=0)
                    result["patches"].append(patches)
                    result["heads"].append(len(affinity))
                    result["affinity to [CLS], least"].append(mean.min())
                    result["affinity to [CLS], most"].append(mean.max())
        return {name: np.array(values) for name, values in result.items()}
    if stage in ("mask_embeddings", "centroids"):
        name = "embedding" if stage == "mask_embeddings" else "centroid"
        column = shards.read_table(paths, [name])[name].combine_chunks()
        vectors = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        result = {
            "dimensions": np.full(len(vectors), column.type.list_size),
            "norm": np.linalg.norm(vectors, axis=1),
        }
        if stage == "centroids" and len(vectors) > 1:
            unit = vectors / np.maximum(result["norm"][:, None], 1e-12)
            cosine = unit @ unit.T
            np.fill_diagonal(cosine, -1)
            result["cosine to the nearest other"] = cosine.max(axis=1)
        return result
    return {}


def _distributions(columns: Mapping[str, np.ndarray]) -> Lines:
    rows = []
    for name, values in columns.items():
        if values.size:
            finite = values[np.isfinite(values)]
            low, p5, median, p95, high = (
                np.percentile(finite, [0, 5, 50, 95, 100]) if finite.size else [None] * 5
            )
            bad = values.size - finite.size
            label = f"{name} ({bad:,} not finite)" if bad else name
            shape = terminal.histogram(finite)
            rows.append([label, values.size, low, p5, median, p95, high, shape])
    if rows:
        header = ["", "count", "least", "5 %", "median", "95 %", "most", "distribution"]
        yield from ["", *terminal.table(header, rows)]


def _rows_an_image(paths: Sequence[Path], stage: str, names: Sequence[str]) -> Lines:
    """Images, and how many masks or candidates they have; a row without either says so."""
    columns = ["image_id"] + [n for n in ("candidate_id",) if n in names]
    table = shards.read_table(paths, columns)
    total = pc.count_distinct(table["image_id"]).as_py()
    per_image = ""
    if stage in ("masks", "mask_embeddings", "assignments", "candidates", "confident"):
        if "candidate_id" in names:
            table = table.filter(pc.is_valid(table["candidate_id"]))
        counts = _numbers(pc.value_counts(table["image_id"].combine_chunks()).field("counts"))
        if counts.size:
            what = "candidates" if "candidate_id" in names else "masks"
            least, most = counts.min() if counts.size == total else 0, counts.max()
            per_image = (
                f", with {least} to {most} {what} each, {counts.sum() / total:.3g} on average"
            )
        if counts.size < total:
            per_image += f"; {total - counts.size:,} without any"
    yield from ["", f"  {total:,} images{per_image}"]


def _counts(title: str, counts: Mapping[str, int]) -> Lines:
    total = sum(counts.values())
    rows = [
        [name, count, f"{count / total:.1%}", terminal.bar(count / total)]
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    if rows:
        yield from ["", *terminal.table([title, "rows", "share", ""], rows)]


def _clusters(column: pa.ChunkedArray) -> Lines:
    counts = collections.Counter(column.drop_null().to_pylist())
    if not counts:
        return
    most = max(counts.values())
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:CLUSTERS_SHOWN]
    rows = [[str(cluster), count, terminal.bar(count / most)] for cluster, count in shown]
    yield from ["", *terminal.table(["cluster", "rows", ""], rows)]
    if len(counts) > len(shown):
        yield f"  … and {len(counts) - len(shown)} smaller clusters"


def _check(paths: Sequence[Path], stage: str) -> Lines:
    """Read everything; decode every mask."""
    decoded = 0
    for path in progress(paths, description="check", unit="shard"):
        for row in shards.read_rows(path, batch_size=16):
            counts = row.get("rle_counts")
            if counts is not None:
                try:
                    areas = {
                        masks.area(counts, row["height"], row["width"]),
                        int(masks.decode(counts, row["height"], row["width"]).sum()),
                    }
                except Exception as error:  # pycocotools raises what it likes
                    raise InputError(
                        f"{path}: image {row['image_id']}: a mask that cannot be decoded ({error})"
                    ) from error
                if areas != {row["area"]}:
                    raise InputError(
                        f"{path}: image {row['image_id']}: a mask of "
                        f"{' or '.join(map(str, sorted(areas)))} pixels whose area is "
                        f"said to be {row['area']:g}; remove the file and run again"
                    )
                decoded += 1
    extra = f", {decoded:,} masks decoded" if decoded else ""
    yield from ["", f"  checked: every row can be read{extra}"]


# Label maps


def _label_map_shards(paths: Sequence[Path], rows: int, sample: int) -> Lines:
    wanted = _spread(rows, sample)
    position = 0
    decoded = []
    for path in progress(paths, description="label maps", unit="shard"):
        for row in shards.read_rows(path):
            if position in wanted:
                try:
                    decoded.append(_label_counts(label_maps.decode_png(row["image"]["bytes"])))
                except (OSError, ValueError, SyntaxError) as error:
                    raise InputError(
                        f"{path}: {row['file_name']}: a damaged label map ({error})"
                    ) from error
            position += 1
    yield from _label_statistics(decoded, rows)


def _label_map_files(paths: Sequence[Path], sample: int) -> Lines:
    bytes_ = sum(path.stat().st_size for path in paths)
    where = paths[0] if len(paths) == 1 else paths[0].parent
    wanted = _spread(len(paths), sample)
    decoded = [
        _label_counts(label_maps.read_png(path)) for i, path in enumerate(paths) if i in wanted
    ]
    yield terminal.plain(where)
    yield f"  {len(paths):,} label map{'s' * (len(paths) > 1)} as PNG, {terminal.size(bytes_)}"
    yield from _label_statistics(decoded, len(paths))


def _spread(count: int, sample: int) -> set[int]:
    """Evenly spread positions of 0..count - 1; all of them where `sample` is 0."""
    if not sample or sample >= count:
        return set(range(count))
    return {int((i + 0.5) * count / sample) for i in range(sample)}


def _label_counts(labels: np.ndarray) -> dict[str, int]:
    """Label → pixels; ignore is "ignore"."""
    values, counts = np.unique(labels, return_counts=True)
    ignore = label_maps.ignore_value(labels)
    return {
        "ignore" if value == ignore else str(value): int(count)
        for value, count in zip(values, counts, strict=True)
    }


def _label_statistics(decoded: Sequence[Mapping[str, int]], total: int) -> Lines:
    pixels: collections.Counter = collections.Counter()
    found: collections.Counter = collections.Counter()
    for counts in decoded:
        pixels.update(counts)
        found.update(dict.fromkeys(counts, 1))
    of = "" if len(decoded) == total else f" (of {len(decoded):,} images, evenly spread)"
    empty = sum(set(counts) <= {"0"} for counts in decoded)
    yield from ["", f"  {empty:,} images are nothing but background{of}"]
    all_pixels = sum(pixels.values())
    order = sorted(pixels, key=lambda label: (label != "0", -pixels[label]))
    rows = [
        [
            "0 background" if label == "0" else label,
            found[label],
            f"{pixels[label] / all_pixels:.2%}",
            terminal.bar(pixels[label] / all_pixels),
        ]
        for label in order[: CLUSTERS_SHOWN + 1]
    ]
    yield from ["", *terminal.table(["label", "images", "pixels", ""], rows)]
    if len(order) > len(rows):
        yield f"  … and {len(order) - len(rows)} rarer labels"


# JSON, CSV, pages and pictures


def _json(path: Path) -> Lines:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged, not valid JSON ({error})") from error
    if isinstance(content, Mapping) and isinstance(content.get("annotations"), list):
        return _coco_dataset(path, content)
    if isinstance(content, list) and all(
        isinstance(entry, Mapping) and {"image_id", "category_id", "score"} <= entry.keys()
        for entry in content
    ):
        return _coco_results(path, content)
    if isinstance(content, Mapping) and {"steps", "class_names"} <= content.keys():
        return _metrics(path, content)
    if path.name in ("complete.json", "fingerprint.json") and isinstance(content, Mapping):
        return _marker(path, content)
    raise InputError(f"{path}: a foreign file: JSON, but nothing that this workflow writes")


def _coco_dataset(path: Path, content: Mapping) -> Lines:
    annotations, listed = content["annotations"], content.get("images", [])
    names = {c["id"]: c["name"] for c in content.get("categories", [])}
    yield terminal.plain(path)
    yield (
        f"  COCO dataset: {len(listed):,} images, {len(annotations):,} annotations, "
        f"{len(names)} categories"
    )
    info = content.get("info", {})
    yield from _provenance(info if "settings" in info else {})
    with_any = {annotation["image_id"] for annotation in annotations}
    orphans = len(with_any - {image["id"] for image in listed})
    yield from ["", f"  {len(listed) - len(with_any) + orphans:,} images without annotation"]
    if orphans:
        yield f"  CAUTION: annotations of {orphans:,} images that are not listed"
    yield from _annotations(annotations, names)


def _coco_results(path: Path, content: Sequence[Mapping]) -> Lines:
    pictures = len({entry["image_id"] for entry in content})
    yield terminal.plain(path)
    yield f"  COCO results: {len(content):,} scored masks of {pictures:,} images"
    yield from _annotations(content, {})


def _annotations(entries: Sequence[Mapping], names: Mapping[int, str]) -> Lines:
    columns = {
        name: np.array([e[name] for e in entries if isinstance(e.get(name), int | float)])
        for name in ("score", "area")
    }
    yield from _distributions(columns)
    counts = collections.Counter(entry["category_id"] for entry in entries)
    yield from _counts(
        "category",
        {f"{i} {names.get(i, '')}".strip(): count for i, count in counts.items()},
    )


def _metrics(path: Path, content: Mapping) -> Lines:
    runs = content.get("runs")
    what = f"mean scores over {runs} runs" if runs else "scores"
    yield terminal.plain(path)
    yield f"  {what} of {content['images']:,} images of the split '{content['split']}'"
    yield from _provenance(content.get("provenance", {}))
    steps = content["steps"]
    found = {name: dict(_leaves(step)) for name, step in steps.items()}
    names = dict.fromkeys(metric for leaves in found.values() for metric in leaves)
    rows = [[metric, *(_score(found[step].get(metric)) for step in steps)] for metric in names]
    yield from ["", *terminal.table(["", *steps], rows), "  fractions are in percent"]


# Tables of their own, too long to list.
_LONG = ("per_class", "confusion_matrix", "calibration", "clusters", "classes")


def _leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Numbers, moments and words of a step's scores, under dotted names."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key in _LONG:
            continue
        if isinstance(value, Mapping) and not {"mean", "sd"} <= value.keys():
            yield from _leaves(value, f"{name}.")
        elif isinstance(value, list):
            if all(isinstance(item, str) for item in value):
                yield name, ", ".join(value)
        else:
            yield name, value


def _score(value: object) -> str:
    """A fraction, or mean and sd of fractions, in percent; other numbers and words as they are."""
    if isinstance(value, Mapping):
        number = value["mean"]
        spread = "" if value["sd"] is None else f" ± {100 * value['sd']:.1f}"
        return _score(number) + (spread if number is not None and 0 <= number <= 1 else "")
    if isinstance(value, float) and 0 <= value <= 1:
        return f"{100 * value:.1f}"
    return terminal.number(value) if isinstance(value, int | float | None) else str(value)


def _marker(path: Path, content: Mapping) -> Lines:
    yield terminal.plain(path)
    if path.name == "complete.json":
        yield "  marker of a generated dataset that is complete"
    else:
        yield "  what decides the result of a training: the name of its folder is a digest of this"
    yield from ["", *terminal.facts([(k, _value(v)) for k, v in _flat(content)], indent=4)]


def _history(path: Path) -> Lines:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns = _as_columns(rows)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged, not lines of JSON ({error})") from error
    return _losses(path, columns, len(rows))


def _csv(path: Path) -> Lines:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
            header = list(rows[0]) if rows else []
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: damaged, not CSV ({error})") from error
    if header == PER_CLASS:
        body = [[row[name] for name in PER_CLASS] for row in rows]
        lines = terminal.table(PER_CLASS, body)
        return iter([terminal.plain(path), f"  scores by class: {len(rows)} rows", "", *lines])
    if {"step", "loss"} <= set(header):
        try:
            return _losses(path, _as_columns(rows), len(rows))
        except ValueError as error:
            raise InputError(f"{path}: a damaged loss history ({error})") from error
    raise InputError(f"{path}: a foreign file: CSV, but nothing that this workflow writes")


def _as_columns(rows: Sequence[Mapping]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: np.array([float(row[name]) for row in rows if row.get(name) not in (None, "")])
        for name in names
    }


def _losses(path: Path, columns: Mapping[str, np.ndarray], count: int) -> Lines:
    if not {"step", "loss"} <= columns.keys():
        raise InputError(f"{path}: a foreign file: no loss history, which has `step` and `loss`")
    yield terminal.plain(path)
    last = terminal.number(columns["step"][-1])
    yield f"  loss history of a training: {count:,} rows, to step {last}"
    rows = []
    for name, values in columns.items():
        if name != "step" and values.size:
            parts = np.array([part.mean() for part in np.array_split(values, min(30, values.size))])
            course = terminal.course(parts)
            rows.append([name, values[0], values.min(), values[-1], course])
    yield from ["", *terminal.table(["", "first", "least", "last", "course"], rows)]


def _benchmark(path: Path) -> Lines:
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if not rows or not {"s", "max_rss"} <= rows[0].keys():
        raise InputError(f"{path}: a foreign file: no benchmark of Snakemake's")
    yield terminal.plain(path)
    yield f"  benchmark of a job: {rows[0]['s']} s, {rows[0]['max_rss']} MB"


def _page(path: Path) -> Lines:
    text = path.read_text(encoding="utf-8", errors="replace")
    if "MaskDistill</title>" not in text:
        raise InputError(f"{path}: a foreign file: a page that this workflow did not write")
    title = text.partition("<title>")[2].partition("</title>")[0]
    yield terminal.plain(path)
    yield f"  page for a browser, {terminal.size(path.stat().st_size)}: {terminal.plain(title)}"


def _is_gallery(index: Path) -> bool:
    return (index.parent / "gallery.js").is_file()


def _gallery(path: Path) -> Lines:
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("GALLERY.index("):
        raise InputError(f"{path}: a foreign file: a script that is no index of a gallery")
    try:
        content = json.loads(text.removeprefix("GALLERY.index(").rstrip().removesuffix(");"))
    except ValueError as error:
        raise InputError(f"{path}: a damaged gallery ({error}); remove it and run again") from error
    stages = ", ".join(stage["title"] for stage in content["stages"])
    yield terminal.plain(path.parent)
    yield f"  gallery of {len(content['images']):,} images; open its index.html in a browser"
    yield from ["", *terminal.facts([("stages", stages), ("splits", ", ".join(content["splits"]))])]
    statuses = collections.Counter(
        status for image in content["images"] for status in image["status"] or [shards.OK]
    )
    yield from _counts("status", statuses)


def _picture(path: Path) -> Lines:
    try:
        height, width = images.probe_image(path)
    except images.ImageRejected as rejection:
        raise InputError(f"{path}: a damaged image ({rejection})") from rejection
    with Image.open(path) as image:
        kind, mode = image.format, image.mode
    yield terminal.plain(path)
    yield f"  image, {kind} {mode}: {height} x {width} px, {terminal.size(path.stat().st_size)}"


# Models


def _model(path: Path) -> Lines:
    # PyTorch takes seconds to import, and most files need none.
    import torch

    from workflow_scripts.maskdistill import weights

    tensors = weights.read_state_dict(path)
    content: Mapping = {}
    if path.suffix != ".safetensors":
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content if isinstance(content, Mapping) else {}
    what = "weights"
    if "engine" in content:
        what = f"Mask R-CNN, engine {content['engine']}"
    elif "settings" in content and "clusters" in content:
        what = "segmentation model"
    elif "optimizer" in content or "step" in content:
        what = "checkpoint of a training"
    yield terminal.plain(path)
    yield f"  {what}: {len(tensors):,} tensors, {terminal.size(path.stat().st_size)}"
    pairs = [
        (key, _value(value))
        for key, value in _flat({k: v for k, v in content.items() if _is_plain(v)})
    ]
    pairs.append(("SHA-256", shards.file_digest(path)))
    yield from ["", "  made with", *terminal.facts(pairs, indent=4)]
    parts: dict[str, list] = collections.defaultdict(list)
    for name, tensor in tensors.items():
        parts[name.partition(".")[0]].append(tensor)
    rows = [
        [
            name,
            len(group),
            sum(tensor.numel() for tensor in group),
            ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in group})),
            sum(int((~torch.isfinite(t)).sum()) for t in group if t.is_floating_point()),
        ]
        for name, group in parts.items()
    ]
    yield from ["", *terminal.table(["part", "tensors", "numbers", "type", "not finite"], rows)]


def _is_plain(value: object) -> bool:
    """Whether a value of a checkpoint is a setting, and no tensors."""
    if isinstance(value, Mapping):
        return len(value) < 100 and all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return len(value) < 100 and all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)
