"""Generated scenes of textured things, drawn from a seed.

The demo needs images of several kinds of objects, with ground truth, that can be generated anywhere
without a download. Every scene shows one to three *things* on a cluttered background. The class of
a thing decides its outline and pattern, but not its colour. The colours of things and backgrounds
come from the same distribution, so neither objects nor classes can be found by colour.

* `scene`: one labelled scene, a pure function of `(seed, split, index)`.
* `clip`: frames of things that move in front of a resting camera, the unlabelled data of
  self-supervised pretraining (`demo.pretraining`).
* `write_voc_tree`: a directory in the layout of PASCAL VOC.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from workflow_scripts.maskdistill.demo.things import (
    SUPERSAMPLING,
    Pose,
    Thing,
    draw_colour,
    draw_pose,
    draw_thing,
    paint_thing,
)
from workflow_scripts.maskdistill.files import label_maps

# Splits of a generated data set; the random seed of a scene includes the position of its split.
SPLITS: tuple[str, ...] = ("train", "val")


@dataclass(frozen=True)
class Scene:
    """A drawn scene with its ground truth.

    Attributes:
        image: `uint8` array of shape `(height, width, 3)`, RGB.
        instances: `uint8` array of shape `(height, width)`; 0 is background, `n` the n-th
            thing.
        classes: `uint8` array of shape `(height, width)`; 0 is background, `c` the class
            `CLASS_NAMES[c - 1]`.
    """

    image: np.ndarray
    instances: np.ndarray
    classes: np.ndarray


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a cluttered background: soft fields of colour at three scales, covered by strokes.

    Returns:
        `uint8` array of shape `(height, width, 3)`, RGB.
    """
    canvas = np.zeros((height, width, 3), dtype=np.float32)
    for cells, weight in ((2, 0.5), (4, 0.3), (9, 0.2)):
        grid = rng.uniform(0, 255, size=(cells, cells, 3)).astype(np.uint8)
        field = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        canvas += weight * np.asarray(field, dtype=np.float32)
    # The sum of random fields has less contrast than the things, so its contrast is increased.
    canvas = (canvas - 127.5) * 1.6 + 127.5
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))

    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(35, 70))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        ink = tuple(int(c) for c in draw_colour(rng))
        length, angle = rng.uniform(6, 34), rng.uniform(0, np.pi)
        dx, dy = length * np.cos(angle), length * np.sin(angle)
        shape = rng.integers(4)
        if shape == 0:
            pen.line((x, y, x + dx, y + dy), fill=ink, width=int(rng.integers(2, 6)))
        elif shape == 1:
            a, b = rng.uniform(3, 11, size=2)
            pen.ellipse((x - a, y - b, x + a, y + b), fill=ink)
        elif shape == 2:
            corners = [(x + px, y + py) for px, py in rng.uniform(-12, 12, size=(4, 2))]
            pen.polygon(corners, fill=ink)
        else:
            bow = (x - length / 2, y - length / 2, x + length / 2, y + length / 2)
            start = np.degrees(angle)
            pen.arc(bow, start, start + 150, fill=ink, width=int(rng.integers(2, 5)))
    return np.array(picture)


class _Light(NamedTuple):
    """Light from one side, and the noise of the sensor."""

    level: float
    slope: np.ndarray  # change across the height and across the width
    noise: float  # standard deviation in grey levels


def _light(rng: np.random.Generator) -> _Light:
    return _Light(rng.uniform(0.85, 1.1), rng.uniform(-0.22, 0.22, size=2), rng.uniform(2.0, 8.0))


def _photograph(
    rng: np.random.Generator,
    background: np.ndarray,
    light: _Light,
    cast: list[tuple[Thing, Pose]],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw things on a background, light the scene and add the noise of the sensor.

    Args:
        rng: Source of the noise.
        background: Result of `_background`, larger by the factor `SUPERSAMPLING`.
        cast: Things with their poses; later ones hide earlier ones.

    Returns:
        The image, `uint8` of shape `(height, width, 3)`, and the map of thing numbers (from 1;
        0 is background), `uint8` of shape `(height, width)`.
    """
    s = SUPERSAMPLING
    canvas = background.copy()
    owner = np.zeros(canvas.shape[:2], dtype=np.uint8)
    for number, (thing, pose) in enumerate(cast, start=1):
        paint_thing(canvas, owner, number, thing, pose)
    image = np.asarray(Image.fromarray(canvas).reduce(s), dtype=np.float32)
    height, width = image.shape[:2]
    shading = (
        light.level
        + light.slope[0] * np.linspace(-1, 1, width)[None, :]
        + light.slope[1] * np.linspace(-1, 1, height)[:, None]
    )
    noise = rng.standard_normal(image.shape, dtype=np.float32) * light.noise
    image = image * shading[..., None].astype(np.float32) + noise
    return np.clip(image, 0, 255).astype(np.uint8), owner[::s, ::s].copy()


def _places(rng: np.random.Generator, height: int, width: int, radii: np.ndarray) -> np.ndarray:
    """Choose centres so that things mostly do not overlap and are inside the image.

    Returns:
        `float64` array of shape `(len(radii), 2)` of positions `(x, y)` in pixels.
    """
    best, best_gap = None, -np.inf
    for _ in range(30):
        margin = 0.85 * radii[:, None]
        centres = rng.uniform(margin, np.array([[width, height]]) - margin)
        distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
        gaps = distance - (radii[:, None] + radii[None])
        gap = gaps[np.triu_indices(len(radii), 1)].min(initial=np.inf)
        if gap > best_gap:
            best, best_gap = centres, gap
        # Circles around things may overlap by up to 2 pixels, as objects touch in photographs, too.
        if best_gap > -2.0:
            break
    return best


def scene(seed: int, split: str, index: int) -> Scene:
    """Draw a labelled scene of one to three things.

    The same arguments always give the same scene, whatever else has been drawn.

    Args:
        seed: Seed of the data set, at least 0.
        split: `"train"` or `"val"`.
        index: Number of the scene in its split, from 0.

    Returns:
        The scene, 120 to 136 pixels a side, with things about 35 to 65 pixels across.

    Raises:
        ValueError: If the split is unknown, or the seed or index is negative.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {SPLITS}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = (int(side) for side in rng.integers(30, 35, size=2) * 4)
    count = int(rng.choice(3, p=[0.4, 0.4, 0.2])) + 1
    radii = rng.uniform(18.0, 31.0 if count < 3 else 26.0, size=count)
    centres = _places(rng, height, width, radii)
    cast = [
        (draw_thing(rng), draw_pose(rng, tuple(centre), radius))
        for centre, radius in zip(centres, radii, strict=True)
    ]
    background = _background(rng, SUPERSAMPLING * height, SUPERSAMPLING * width)
    image, instances = _photograph(rng, background, _light(rng), cast)
    labels = np.array([0] + [thing.kind + 1 for thing, _ in cast], dtype=np.uint8)
    return Scene(image, instances, labels[instances])


def clip(rng: np.random.Generator, *, size: int = 112, frames: int = 7) -> np.ndarray:
    """Draw a clip of one or two things that move in front of a resting camera.

    A thing keeps its class and its colours; its position, rotation, size and deformation are drawn
    for every frame. Neither classes nor masks are returned.

    Args:
        rng: Source of everything random in the clip.
        size: Side of the square frames in pixels.
        frames: Number of frames.

    Returns:
        `uint8` array of shape `(frames, size, size, 3)`, RGB.

    Raises:
        ValueError: If the frames are too small (below 80 pixels) to hold a thing.
    """
    if size < 80:
        raise ValueError(f"frames of {size} pixels cannot hold a thing; use at least 80")
    things = [draw_thing(rng) for _ in range(2 if rng.uniform() < 0.25 else 1)]
    background = _background(rng, SUPERSAMPLING * size, SUPERSAMPLING * size)
    light = _light(rng)
    result = np.empty((frames, size, size, 3), dtype=np.uint8)
    for frame in result:
        radii = rng.uniform(17.0, 30.0 if len(things) == 1 else 24.0, size=len(things))
        places = _places(rng, size, size, radii)
        cast = [
            (thing, draw_pose(rng, tuple(place), radius))
            for thing, place, radius in zip(things, places, radii, strict=True)
        ]
        frame[:], _ = _photograph(rng, background, light, cast)
    return result


def write_voc_tree(root: Path | str, train: int, val: int, seed: int) -> None:
    """Write scenes as a PASCAL VOC data set.

    The tree has `JPEGImages/NAME.jpg`, `SegmentationClass/NAME.png` and
    `SegmentationObject/NAME.png` (palette images) and `ImageSets/Segmentation/SPLIT.txt`. Names
    consist of a split and a number, such as `train_00012`.

    Args:
        root: Directory to write to. It is made if missing, and existing files are replaced.
        train: Number of scenes in the split `train`.
        val: Number of scenes in the split `val`.
        seed: Seed of the data set; see `scene`.

    Raises:
        ValueError: If a number of scenes or the seed is negative.
    """
    if min(train, val, seed) < 0:
        raise ValueError(f"negative number of scenes or seed: {train}, {val}, {seed}")
    root = Path(root)
    images = root / "JPEGImages"
    class_maps = root / "SegmentationClass"
    instance_maps = root / "SegmentationObject"
    lists = root / "ImageSets" / "Segmentation"
    for folder in (images, class_maps, instance_maps, lists):
        folder.mkdir(parents=True, exist_ok=True)

    for split, count in zip(SPLITS, (train, val), strict=True):
        names = [f"{split}_{index:05d}" for index in range(count)]
        for index, name in enumerate(names):
            drawn = scene(seed, split, index)
            Image.fromarray(drawn.image).save(images / f"{name}.jpg", quality=92)
            for folder, labels in ((class_maps, drawn.classes), (instance_maps, drawn.instances)):
                (folder / f"{name}.png").write_bytes(label_maps.encode_png(labels))
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
