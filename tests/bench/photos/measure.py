"""Scores of the workflow's outputs so far: masks, clusters, later steps, time and memory."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.photos import costs, scores, workflow
from tests.bench.photos.plan import SPLITS, Photographs, Plan, Row
from tests.bench.photos.workflow import Workflow
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.evaluation import semantic_scores
from workflow_scripts.maskdistill.evaluation.summary import moments, summarize
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.files.provenance import file_digest
from workflow_scripts.maskdistill.runs.run import run_name
from workflow_scripts.maskdistill.runs.variants import MAIN

EVALUATED = SPLITS[1:]


class Measurement:
    """Reads the outputs of one transformer's run and computes their scores.

    Args:
        photographs: the photographs that the run uses.
        running: the workflow, which knows the paths of the run's files.
    """

    def __init__(self, plan: Plan, photographs: Photographs, running: Workflow) -> None:
        self._plan, self._photographs, self._running = plan, photographs, running
        self._truth = GroundTruth(plan.config["dataset"], photographs.root, "val")
        self._masks: dict[str, scores.MaskScores] = {}

    def values(self, rows: Sequence[Row], seeds: Sequence[int], *, clusters: bool) -> dict:
        """All scores so far, as JSON values; what does not exist yet is None or empty.

        Args:
            rows: masks to measure.
            seeds: seeds of clusterings and trainings.
            clusters: whether clusters and later steps are measured, or masks only.
        """
        plan, features = self._plan, self._plan.config["features"]
        return {
            "dataset": plan.dataset,
            "backbone": plan.transformer.backbone,
            "weights": plan.transformer.weights.name,
            "weights_sha256": file_digest(plan.transformer.weights),
            "shorter_side": features["shorter_side"],
            "settings": plan.transformer.settings,
            "rows": [self._row(row, seeds, clusters=clusters) for row in rows],
            "steps": self._steps(seeds) if clusters else {},
            "costs": self._costs(plan.dataset),
        }

    def usable_masks(self, row: Row, split: str) -> int:
        """Number of a row's masks that later stages use."""
        return sum(
            mask["status"] == shards.OK
            for path in workflow.masks(self._plan, row.variant, [split])
            for mask in shards.read_rows(self._running.path(path), ["status"])
        )

    def can_be_clustered(self, row: Row) -> bool:
        """Whether a row has at least as many masks of `train` as there are clusters."""
        found = self._existing(workflow.masks(self._plan, row.variant, SPLITS))
        return found is not None and self.usable_masks(row, "train") >= self._clusters

    @property
    def _clusters(self) -> int:
        return self._plan.config["clustering"]["clusters"]

    def _existing(self, paths: Sequence[str]) -> list[Path] | None:
        """The files at these paths, or None if one is missing."""
        found = [self._running.path(path) for path in paths]
        return found if all(path.is_file() for path in found) else None

    def _made_from(self, sources: Sequence[Path], paths: Sequence[str]) -> list[Path] | None:
        """As `_existing`, but None, too, if a file is older than its sources, thus of other ones.

        This happens if the settings have changed since an earlier run in the same folder.
        """
        found = self._existing(paths)
        newest = max(path.stat().st_mtime_ns for path in sources)
        current = found is not None and all(path.stat().st_mtime_ns >= newest for path in found)
        return found if current else None

    def _row(self, row: Row, seeds: Sequence[int], *, clusters: bool) -> dict:
        values = {"key": row.key, "title": row.title, "masks": None, "clusters": None, "note": ""}
        values["costs"] = self._costs(run_name(self._plan.dataset, row.variant))
        found = self._existing(workflow.masks(self._plan, row.variant, EVALUATED))
        if found is None:
            return values
        if row.variant not in self._masks:
            manifests = [
                self._running.path(path) for path in workflow.images(self._plan, EVALUATED)
            ]
            self._masks[row.variant] = scores.score_masks(
                manifests, found, self._truth, f"{self._plan.dataset}, {row.title}"
            )
        values["masks"] = self._masks[row.variant].values
        made = self._existing(workflow.masks(self._plan, row.variant, SPLITS))
        if not clusters or made is None:
            return values
        if self.can_be_clustered(row):
            values["clusters"] = self._cluster_scores(row, made, seeds)
        else:
            values["note"] = (
                f"no clusters, because only {self.usable_masks(row, 'train')} masks of train can "
                f"be used for {self._clusters} clusters"
            )
        return values

    def _cluster_scores(self, row: Row, made: Sequence[Path], seeds: Sequence[int]) -> dict | None:
        """Scores of the clusters of a row's masks, averaged over the seeds that have run so far."""
        by_seed = {}
        usable = [
            image["image_id"]
            for path in workflow.images(self._plan, EVALUATED)
            for image in shards.read_usable(self._running.path(path))
        ]
        majority = self._masks[row.variant].majority
        for seed in seeds:
            painted, assigned = (
                self._made_from(made, paths(self._plan, row.variant, seed))
                for paths in (workflow.initial_label_maps, workflow.assignments)
            )
            if painted is None or assigned is None:
                continue
            with ThreadPoolExecutor(1) as pool:
                step = semantic_scores.score_step(
                    f"{row.title}, seed {seed}",
                    painted,
                    self._truth,
                    usable,
                    pool,
                    clusters=self._clusters,
                )
            found = scores.cluster_agreement(
                scores.read_clusters(assigned),
                majority,
                class_count=len(self._truth.class_names),
                cluster_count=self._clusters,
            )
            by_seed[seed] = {
                "miou": step["miou"],
                "nmi": _defined(found.agreement.nmi),
                "purity": _defined(found.agreement.purity),
                "masks": found.masks,
                "without_class": found.without_class,
            }
        if not by_seed:
            return None
        averaged = {
            key: moments([values[key] for values in by_seed.values()])
            for key in ("miou", "nmi", "purity")
        }
        return {**averaged, "by_seed": by_seed}

    def _steps(self, seeds: Sequence[int]) -> dict:
        """Scores of all steps of the run, from initial masks to the last model's predictions."""
        made = self._existing(workflow.masks(self._plan, MAIN, SPLITS))
        found = [
            self._made_from(made, [workflow.metrics(self._plan, seed)]) for seed in seeds if made
        ]
        runs = [read_json(*paths, remedy="run again") for paths in found if paths]
        if not runs:
            return {}
        keys = ("miou", "boundary_iou", "pixel_accuracy")
        return {
            name: {key: step[key] for key in keys}
            for name, step in summarize(runs)["steps"].items()
        }

    def _costs(self, run: str) -> dict:
        return costs.costs(
            self._running.path(f"benchmarks/{run}"),
            self._running.path(f"results/{run}"),
            self._photographs.counts,
        )


def _defined(value: float) -> float | None:
    """None in place of NaN, which JSON does not have."""
    return None if value != value else value
