"""Reads the results of all stages for one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import step_in_round
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.pictures import overlays
from workflow_scripts.maskdistill.settings.layers import known_datasets, layers, merge
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

LINEAR_PROBE = "linear_probe"  # beginning of the names of steps whose labels are classes
APPLIED = "applied"  # folder of the splits of new images


@dataclass(frozen=True, kw_only=True)
class Search:
    """How make_masks searched for one mask; patches are (row, column) on the grid of patches."""

    source: tuple[int, int]  # the patch nearest to [CLS]
    proposals: list[tuple[int, int]]  # P, the patches nearest to [CLS]
    voters: list[tuple[int, int]]  # P', the proposals that are similar to the source


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """The results of all stages for one image; missing ones are empty or None."""

    split: str
    image: Mapping  # row of the manifest
    features: Mapping | None = None
    cls_affinity: np.ndarray | None = None  # rows x columns, a_CLS of Eq. 1
    searches: Sequence[Search] = ()
    patch_size: int = 0
    # Rows with `cluster` and `distance`, both None for a mask without a cluster. If config/names
    # merges clusters, `cluster` is the pseudo-class; 0 stands for background.
    masks: Sequence[Mapping] = ()
    candidates: Sequence[Mapping] = ()  # the most confident first
    confident: frozenset[int] = frozenset()  # candidate ids
    steps: Mapping[str, np.ndarray] = field(default_factory=dict)  # step → label map
    ground_truth: np.ndarray | None = None
    metrics: Mapping | None = None  # metrics.json of the seed, with the matching of clusters


def results_tree(path: Path) -> Path:
    """The folder results/DATASET that contains a path.

    Raises:
        InputError: the path is in no such folder.
    """
    for folder in (path, *path.absolute().parents):
        # The folder `applied` has manifests at this depth, too, but is a part of results/DATASET.
        if folder.name != APPLIED and folder.is_dir() and any(folder.glob("*/images/*.parquet")):
            return folder
    raise InputError(f"{path}: not in a folder of results; give results/DATASET or a file in it")


def find_image(tree: Path, wanted: str, path: Path | None = None) -> tuple[str, dict]:
    """Split and manifest row of an image.

    Args:
        wanted: id, file name, or last part of the file name with or without its suffix.
        path: if several splits have the image, the split that contains this path is chosen.

    Raises:
        InputError: there is no such image, or several images fit.
    """
    exact, alike = [], []
    manifests = [*tree.glob("*/images/*.parquet"), *tree.glob(f"{APPLIED}/*/images/*.parquet")]
    for manifest in sorted(manifests):
        split = manifest.parents[1].relative_to(tree).as_posix()
        for row in shards.read_rows(manifest):
            if wanted in (str(row["image_id"]), row["file_name"]):
                exact.append((split, row))
            elif wanted in (
                PurePosixPath(row["file_name"]).name,
                PurePosixPath(row["file_name"]).stem,
            ):
                alike.append((split, row))
    found = exact or alike
    if not found:
        raise InputError(f"{tree}: no image {wanted!r}; give its id or its file name")
    names = sorted({row["file_name"] for _, row in found})
    if len(names) > 1:
        raise InputError(
            f"{tree}: {wanted!r} may be {names[0]} or {names[1]}; give the whole file name"
        )

    def order(item: tuple[str, dict]) -> tuple[bool, bool, bool]:
        meant = path is not None and path.absolute().is_relative_to(tree.absolute() / item[0])
        # val has results of most stages, train of fewer, other splits and new images of fewest.
        return not meant, item[0] != "val", item[0] != "train"

    return min(found, key=order)


def dataset_root(tree: Path, split: str, folders: Sequence[Path]) -> Path:
    """The folder of a split's images, from the dataset's config.

    Raises:
        InputError: there is no config of the dataset.
    """
    if split.startswith(f"{APPLIED}/"):
        raise InputError(f"{tree}/{split}: give the folder of these new images as --root")
    name, known = tree.absolute().name, known_datasets(folders)
    if name in known:
        root = merge({}, *layers(known[name], known)).get("dataset", {}).get("root")
        if root:
            return Path(root)
    raise InputError(
        f"{tree}: no {name}.yaml in {folders[0]} names the folder of the images; give it as --root"
    )


def collect(tree: Path, split: str, image: Mapping, root: Path, seed: str | None) -> ImageRecord:
    """Read the results of every stage for an image.

    Args:
        seed: number of the seed; None for the first one.

    Raises:
        InputError: a file is damaged, or there is no such seed.
    """
    name = f"{image['shard']:04d}.parquet"
    base = _seed_folder(tree, seed)
    image_id = image["image_id"]

    def rows(path: Path | None) -> list[dict]:
        return shards.rows_of_image(path, image_id) if path and path.is_file() else []

    mask_rows = rows(tree / split / "masks" / name)
    # Training masks have one file of assignments, others have one per shard.
    clustered = Path("clusters/assignments.parquet")
    assignments = clustered if split == "train" else Path(split, "assignments", name)
    assigned = {row["mask_id"]: row for row in rows(base and base / assignments)}
    classes = _classes(base and base / split / "initial_label_maps" / name)
    for row in mask_rows:
        found = assigned.get(row["mask_id"], {})
        cluster = found.get("cluster")
        if cluster and classes:
            cluster = classes[cluster - 1]
        row |= {"cluster": cluster, "distance": found.get("distance")}
    steps = {}
    for step, folder in step_folders(base, split).items():
        for row in rows(folder / name):
            steps[step] = label_maps.decode_png(row["image"]["bytes"])
    metrics_file = base / "metrics.json" if base else None
    metrics = None
    if metrics_file and metrics_file.is_file():
        metrics = read_json(metrics_file, remedy="run evaluate again")
    return ImageRecord(
        split=split,
        image=image,
        masks=mask_rows,
        candidates=overlays.ranked(rows(base and base / split / "candidates" / name)),
        confident=frozenset(
            row["candidate_id"]
            for row in overlays.ranked(rows(base and base / split / "confident" / name))
        ),
        steps=steps,
        ground_truth=_ground_truth(metrics, split, image, root),
        metrics=metrics,
        **_features(tree / split, name, image_id),
    )


def _classes(label_maps_file: Path | None) -> Sequence[int] | None:
    """Pseudo-classes of clusters 1, 2, … in a label map file; None if no clusters were merged."""
    if label_maps_file is None or not label_maps_file.is_file():
        return None
    return shards.read_metadata(label_maps_file)["settings"].get("curation", {}).get("classes")


def _candidate_step(folder: Path) -> str:
    """Name of the step of the candidates of a split: of Mask R-CNN or of the initial masks."""
    first = next(iter(sorted((folder / "candidates").glob("*.parquet"))), None)
    of_masks = first and shards.read_metadata(first).get("program") == "score_masks"
    return "confident_masks" if of_masks else "mask_rcnn"


def step_folders(base: Path | None, split: str) -> dict[str, Path]:
    """Step → existing folder of label maps, for one seed."""
    if base is None:
        return {}
    folders = {
        "initial_masks": base / split / "initial_label_maps",
        _candidate_step(base / split): base / split / "label_maps",
    }
    rounds = sorted(base.glob("round-*"), key=lambda path: int(path.name.removeprefix("round-")))
    for step, labels in (("segmentation", "predictions"), (LINEAR_PROBE, LINEAR_PROBE)):
        for number, folder in enumerate(rounds):
            name = step_in_round(step, number)
            folders[name] = folder / split / labels
            folders[f"{name}_crf"] = folder / split / f"{labels}_crf"
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def _seed_folder(tree: Path, seed: str | None) -> Path | None:
    folders = {
        path.name.removeprefix("seed-"): path
        for path in tree.glob("seed-*")
        if path.name.removeprefix("seed-").isdigit()
    }
    if seed is not None and seed not in folders:
        known = ", ".join(sorted(folders, key=int)) or "none"
        raise InputError(f"{tree}: no results of the seed {seed}; existing seeds: {known}")
    return folders[seed or min(folders, key=int)] if folders else None


def _features(folder: Path, name: str, image_id: int) -> dict:
    """a_CLS and the searches for masks, with the settings that made the masks."""
    path, mask_path = folder / "features" / name, folder / "masks" / name
    rows = shards.rows_of_image(path, image_id) if path.is_file() else []
    if not rows or rows[0]["status"] != shards.OK:
        return {"features": rows[0] if rows else None}
    row = rows[0]
    grid = (row["grid_height"], row["grid_width"])
    patches = grid[0] * grid[1]
    patch_size = shards.read_metadata(path)["patch_size"]
    settings = {}
    if mask_path.is_file():
        settings = shards.read_metadata(mask_path)["settings"]["masks"]
    heads = row["cls_affinity"].reshape(-1, patches)
    return {
        "features": row,
        "patch_size": patch_size,
        "cls_affinity": affinity.average_heads(heads, settings.get("heads")).reshape(grid),
        "searches": _searches(row["keys"].reshape(patches, -1), heads, grid, settings),
    }


def _searches(
    keys: np.ndarray, heads: np.ndarray, grid: tuple[int, int], settings: Mapping
) -> list[Search]:
    """Proposals and voters of every mask; the rows of `masks` only have their counts."""
    if not settings:
        return []
    found = affinity.object_masks(keys, heads, grid, MaskSettings.read(settings))
    keys = affinity.prepare_keys(keys, settings["center_keys"])
    nearness = affinity.average_heads(heads, settings["heads"])
    free = np.ones(len(keys), dtype=bool)
    result = []
    for mask in found:
        proposals = affinity.select_proposals(nearness, settings["top_k"], free)
        voters = affinity.similar_to_source(keys, proposals)
        result.append(
            Search(
                source=mask.source,
                proposals=[divmod(int(patch), grid[1]) for patch in proposals],
                voters=[divmod(int(patch), grid[1]) for patch in voters],
            )
        )
        free &= ~mask.grid.ravel()
    return result


def _ground_truth(
    metrics: Mapping | None, split: str, image: Mapping, root: Path
) -> np.ndarray | None:
    """Label map of the ground truth, if the evaluation has read labels."""
    if metrics is None or metrics["split"] != split:
        return None
    truth = GroundTruth(metrics["provenance"]["settings"]["dataset"], root, split)
    return truth.semantic(image["image_id"], image["file_name"])
