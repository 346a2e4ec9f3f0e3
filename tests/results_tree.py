"""A small results folder like that of a finished run, made by the stages' own programs."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from workflow_scripts import evaluate, filter_candidates, make_masks, paint_masks
from workflow_scripts.maskdistill.files import cluster_files, label_maps, masks, provenance, shards
from workflow_scripts.maskdistill.gallery.stage_files import GalleryInputs

CLASSES = ["cat", "dog"]
EVIL = 'JPEGImages/<img src=x onerror="evil()">&amp;.jpg'
REJECTED = "JPEGImages/broken.jpg"
WITHOUT_CANDIDATE = "JPEGImages/4.jpg"
SIZE = (40, 60)
NAMES = {
    "train": [f"JPEGImages/{i}.jpg" for i in range(4)],
    "val": [WITHOUT_CANDIDATE, EVIL, "JPEGImages/6.jpg", REJECTED],
}
SETTINGS = {
    "dataset": {
        "adapter": "voc",
        "splits": {"train": "train", "val": "val"},
        "ground_truth": True,
        "classes": CLASSES,
    },
    "masks": {
        "top_k": 0.3,
        "heads": None,
        "center_keys": True,
        "source_component": False,
        "per_image": 2,
        "next_source": 0.1,
    },
    "clustering": {"clusters": 2},
    "curation": {"classes": None, "names": ["cluster_001", "cluster_002"]},
    "confidence": {"threshold": 0.6, "keep_best": True, "overlap": 1},
}


def write(folder: Path) -> None:
    """Write data/tiny, results/tiny and config/datasets/tiny.yaml under `folder`.

    There are two splits of two shards. Clusters have the numbers of the classes in reverse order,
    so that they must be matched. The predictions of the segmentation are equal to the ground truth.
    """
    (folder / "config" / "datasets").mkdir(parents=True)
    (folder / "config" / "datasets" / "tiny.yaml").write_text(
        f"dataset: {{ root: {folder}/data/tiny }}\n"
    )
    image_id = 0
    for split, names in NAMES.items():
        for shard in (0, 1):
            part = names[2 * shard : 2 * shard + 2]
            _write_shard(folder, split, shard, part, image_id)
            image_id += len(part)
    base = folder / "results" / "tiny"
    rows = [
        row
        for path in sorted((base / "seed-0" / "train" / "assignments").glob("*.parquet"))
        for row in shards.read_rows(path)
    ]
    made_by = provenance.record("clusters", {"clustering": SETTINGS["clustering"]}, seed=0)
    clusters = base / "seed-0" / "clusters"
    shards.write_table(clusters / "assignments.parquet", "assignments", rows, made_by)
    centroids = [{"cluster": i + 1, "size": 3, "centroid": np.eye(4)[i]} for i in range(2)]
    shards.write_table(
        clusters / "centroids.parquet", "centroids", centroids, made_by, embedding_size=4
    )
    places = [
        {"image_id": row["image_id"], "mask_id": row["mask_id"], "x": number / 10, "y": 0.5}
        for number, row in enumerate(rows)
    ]
    shards.write_table(base / "mask_map.parquet", "mask_map", places, made_by)
    _evaluate(folder, base)


def _write_shard(folder: Path, split: str, shard: int, names: list[str], first_id: int) -> None:
    base, root = folder / "results" / "tiny", folder / "data" / "tiny"
    seed, name = base / "seed-0", f"{shard:04d}.parquet"
    manifest, features, truth = [], [], {}
    for image_id, file_name in enumerate(names, first_id):
        row = {"image_id": image_id, "file_name": file_name, "shard": shard}
        if file_name == REJECTED:
            manifest.append(row | {"status": "truncated or damaged: <b>cut</b>"})
            continue
        manifest.append(row | {"height": SIZE[0], "width": SIZE[1], "status": "ok"})
        truth[image_id] = _write_image(root, file_name, image_id)
        features.append(_features(image_id, truth[image_id]))
    images, masks_ = base / split / "images" / name, base / split / "masks" / name
    shards.write_table(images, "images", manifest, provenance.record("images", {}))
    shards.write_table(
        base / split / "features" / name,
        "features",
        features,
        provenance.record("features", {}, patch_size=4),
    )
    _run(
        make_masks,
        {"masks": SETTINGS["masks"]},
        images=images,
        features=base / split / "features" / name,
        output=masks_,
    )
    made = list(shards.read_rows(masks_))
    assignments = seed / split / "assignments" / name
    cluster_files.write_assignments(
        assignments,
        [(row["image_id"], row["mask_id"]) for row in made],
        np.array([_cluster(row["image_id"]) for row in made]),
        np.linspace(0.1, 0.2, len(made)),
        provenance.record("assignments", {"clustering": {"metric": "cosine"}}),
    )
    embeddings = [
        {"image_id": row["image_id"], "mask_id": row["mask_id"], "embedding": np.full(4, i + 1.0)}
        for i, row in enumerate(made)
    ]
    shards.write_table(
        base / split / "mask_embeddings" / name,
        "mask_embeddings",
        embeddings,
        provenance.record("mask_embeddings", {}),
        embedding_size=4,
    )
    candidates = seed / split / "candidates" / name
    shards.write_table(
        candidates,
        "candidates",
        [row for i, labels in truth.items() for row in _candidates(i, labels, names[i - first_id])],
        provenance.record("candidates", {"candidates": {"score_floor": 0.05}}),
    )
    clusters = {"clustering": SETTINGS["clustering"]}
    _run(
        filter_candidates,
        clusters | {"confidence": SETTINGS["confidence"]},
        images=images,
        candidates=candidates,
        confident=seed / split / "confident" / name,
        label_maps=seed / split / "label_maps" / name,
    )
    if split == "val":
        _run(
            paint_masks,
            clusters | {"curation": SETTINGS["curation"]},
            images=images,
            masks=masks_,
            assignments=assignments,
            output=seed / split / "initial_label_maps" / name,
        )
        swapped = np.array([0, 2, 1] + [0] * 253, np.uint8)
        predicted = [
            label_maps.row(i, names[i - first_id], swapped[labels]) for i, labels in truth.items()
        ]
        shards.write_table(
            seed / "round-0" / split / "predictions" / name,
            "predictions",
            predicted,
            provenance.record("predictions", {"segmentation": {"depth": 10}}),
        )


def _run(program, settings: dict, **options: Path) -> None:
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    assert program.main([f"--settings={json.dumps(settings)}", *arguments]) == 0


def _class(image_id: int) -> int:
    return 1 + image_id % 2


def _cluster(image_id: int) -> int:
    return 3 - _class(image_id)


def _write_image(root: Path, file_name: str, image_id: int) -> np.ndarray:
    """Write an image with a bright rectangle and its ground truth; returns the ground truth."""
    pixels = np.random.default_rng(image_id).integers(0, 90, (*SIZE, 3), dtype=np.uint8)
    labels = np.zeros(SIZE, np.uint8)
    labels[8:28, 12 + image_id : 40 + image_id] = _class(image_id)
    pixels[labels > 0] += 150
    labels[8, 12 + image_id : 40 + image_id] = label_maps.IGNORE
    for folder, array in (("JPEGImages", pixels), ("SegmentationClass", labels)):
        path = root / folder / Path(file_name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder != "JPEGImages":
            path = path.with_suffix(".png")
        Image.fromarray(array).save(path)
    return labels


def _features(image_id: int, labels: np.ndarray) -> dict:
    """Features of patches of 4 pixels; the object's patches are near to [CLS] and alike."""
    inside = (labels[2::4, 2::4] > 0).ravel()
    noise = np.random.default_rng(image_id).normal(0, 0.1, (inside.size, 4))
    return {
        "image_id": image_id,
        "grid_height": SIZE[0] // 4,
        "grid_width": SIZE[1] // 4,
        "resized_height": SIZE[0],
        "resized_width": SIZE[1],
        "cls_affinity": np.tile(inside + noise[:, 0], 2).astype(np.float32),
        "keys": (np.where(inside, 1, -1)[:, None] + noise).astype(np.float16).ravel(),
        "status": "ok",
    }


def _candidates(image_id: int, labels: np.ndarray, file_name: str) -> list[dict]:
    """Rows of a good candidate and a weak one, or the row of an image without candidates."""
    if file_name == WITHOUT_CANDIDATE:
        return [{"image_id": image_id}]
    good = (labels > 0) & (labels < label_maps.IGNORE)
    weak = np.zeros(SIZE, bool)
    weak[30:38, 2:20] = True
    return [
        {
            "image_id": image_id,
            "candidate_id": number,
            "cluster": cluster,
            "score": score,
            **masks.encode(mask)._asdict(),
        }
        for number, (mask, cluster, score) in enumerate(
            [(weak, _class(image_id), 0.2), (good, _cluster(image_id), 0.56 + image_id / 20)]
        )
    ]


def _evaluate(folder: Path, base: Path) -> None:
    seed = base / "seed-0"
    steps = {
        "initial_masks": seed / "val" / "initial_label_maps",
        "mask_rcnn": seed / "val" / "label_maps",
        "segmentation": seed / "round-0" / "val" / "predictions",
    }
    options = [f"--root={folder / 'data' / 'tiny'}", "--split=val", "--images"]
    options += map(str, sorted((base / "val" / "images").glob("*.parquet")))
    for step, shards_ in steps.items():
        options += ["--step", step, *map(str, sorted(shards_.glob("*.parquet")))]
    options += ["--max-rejected", "0", "10", f"--output={seed / 'metrics.json'}"]
    options += [f"--per-class-csv={seed / 'per_class.csv'}"]
    options += [f"--per-class-parquet={seed / 'per_class.parquet'}"]
    settings = {key: SETTINGS[key] for key in ("dataset", "clustering", "curation")}
    assert evaluate.main([f"--settings={json.dumps(settings)}", *options]) == 0


def gallery_inputs(folder: Path, *, truth: bool = True) -> GalleryInputs:
    """The inputs of a gallery of the whole results folder."""
    base = folder / "results" / "tiny"
    seed = base / "seed-0"

    def by_split(parent: Path, stage: str) -> dict[str, list[Path]]:
        return {split: sorted((parent / split / stage).glob("*.parquet")) for split in NAMES}

    steps = {split: {"mask_rcnn": paths} for split, paths in by_split(seed, "label_maps").items()}
    steps["val"]["segmentation"] = by_split(seed / "round-0", "predictions")["val"]
    return GalleryInputs(
        dataset="<i>tiny</i>",
        root=folder / "data" / "tiny",
        settings={key: SETTINGS[key] for key in ("dataset", "clustering", "curation")},
        images=by_split(base, "images"),
        masks=by_split(base, "masks"),
        assignments={
            "train": [seed / "clusters" / "assignments.parquet"],
            "val": by_split(seed, "assignments")["val"],
        },
        candidates=by_split(seed, "candidates"),
        confident=by_split(seed, "confident"),
        steps=steps,
        mask_map=base / "mask_map.parquet",
        metrics=json.loads((seed / "metrics.json").read_text()) if truth else None,
    )


def gallery_options(folder: Path, output: Path, *, truth: bool = True) -> list[str]:
    """The command line of write_gallery for `gallery_inputs`."""
    shown = gallery_inputs(folder, truth=truth)
    options = [f"--settings={json.dumps(shown.settings)}", f"--root={shown.root}"]
    options += [f"--dataset={shown.dataset}", f"--output={output}", f"--map={shown.mask_map}"]
    for stage in ("images", "masks", "candidates", "confident", "assignments"):
        for split, paths in getattr(shown, stage).items():
            options += [f"--{stage}", split, *map(str, paths)]
    for split, steps in shown.steps.items():
        for step, paths in steps.items():
            options += ["--step", split, step, *map(str, paths)]
    if truth:
        options.append(f"--metrics={folder / 'results' / 'tiny' / 'seed-0' / 'metrics.json'}")
    return options
