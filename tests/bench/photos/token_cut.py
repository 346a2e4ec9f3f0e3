"""TokenCut (Wang et al., 2022, arXiv 2202.11539), a reference that is not in the workflow.

The patches of an image are the nodes of a complete graph. Its edges weigh 1 between patches whose
keys have a cosine similarity above τ, and ε otherwise. The image is divided by the normalised cut.
"""

import time
from pathlib import Path

import numpy as np
from scipy import linalg

from workflow_scripts.maskdistill.discovery.affinity import (
    ObjectMask,
    component_of,
    prepare_keys,
)
from workflow_scripts.maskdistill.discovery.initial_masks import write_masks
from workflow_scripts.maskdistill.files import provenance, shards
from workflow_scripts.maskdistill.files.atomic import write_text

NAME = "token_cut"
TAU, EPSILON = 0.2, 1e-5  # as in TokenCut's paper


def token_cut(keys: np.ndarray, grid: tuple[int, int], *, tau: float, epsilon: float) -> ObjectMask:
    """Find the object of one image.

    Args:
        keys: N x d float32, the keys of all heads, concatenated, see `affinity.prepare_keys`.
        grid: (rows, columns) with rows x columns = N.
        tau: cosine similarity above which two patches are alike.
        epsilon: weight of an edge between patches that are not alike.

    Returns:
        The 4-connected component that contains the source, which is the patch with the largest
        absolute value in the eigenvector. It is empty if all patches are alike, because then no cut
        is better than another. `proposals` is the number of patches on the source's side.
    """
    norms = np.linalg.norm(keys, axis=1, keepdims=True)
    directions = keys / np.maximum(norms, np.finfo(np.float32).tiny)
    alike = directions @ directions.T > tau
    if alike.all():
        return ObjectMask(np.zeros(grid, bool), (0, 0), proposals=0)
    side, source = normalised_cut(np.where(alike, 1.0, epsilon))
    mask = component_of(side.reshape(grid), source)
    return ObjectMask(mask, divmod(source, grid[1]), proposals=int(side.sum()))


def normalised_cut(weights: np.ndarray) -> tuple[np.ndarray, int]:
    """Divide a graph in two by the second smallest solution y of (D - W) y = λ D y.

    Args:
        weights: W, N x N float64, symmetric and positive. D is the diagonal matrix of its row sums.

    Returns:
        The nodes on the foreground's side (N bool), and the node with the largest |y|, which is
        one of them. The sides are the nodes above and not above the mean of y.
    """
    degrees = weights.sum(axis=1)
    _, vectors = linalg.eigh(
        np.diag(degrees) - weights, np.diag(degrees), subset_by_index=[1, 1], overwrite_a=True
    )
    second = vectors[:, 0]
    source = int(np.abs(second).argmax())
    above = second > second.mean()
    return above == above[source], source


def write_shard(
    images: Path, features: Path, output: Path, benchmark: Path, *, center: bool | str
) -> None:
    """Write the masks of one shard and the time that they took, unless they exist already.

    Args:
        images: the shard's manifest.
        features: the shard's features.
        output: Parquet file of the masks, as `make_masks` writes them.
        benchmark: file for the seconds, in the format of Snakemake's benchmark files.
        center: `masks.center_keys`.
    """
    settings = {"tau": TAU, "epsilon": EPSILON, "center_keys": center}
    made = provenance.record("masks", settings, inputs=[images, features], baseline=NAME)
    if _is_made(output, made):
        return

    def find(keys: np.ndarray, cls_affinity: np.ndarray, grid: tuple[int, int]) -> list[ObjectMask]:
        prepared = prepare_keys(keys, center)
        return [token_cut(prepared, grid, tau=TAU, epsilon=EPSILON)]

    start = time.perf_counter()
    write_masks(images, features, output, find, made)
    # No memory is written, because this process also does other work.
    write_text(benchmark, f"s\tmax_rss\n{time.perf_counter() - start:.2f}\tNA\n")


def _is_made(output: Path, made: dict) -> bool:
    """Whether TokenCut made the file with these inputs and settings, and it is newer than them.

    Snakemake would replace an older file by masks of another method.
    """
    if not output.is_file():
        return False
    old = shards.read_metadata(output)
    newest = max(Path(path).stat().st_mtime for path in made["inputs"])
    same = all(old.get(key) == made[key] for key in ("baseline", "settings", "inputs"))
    return same and output.stat().st_mtime >= newest
