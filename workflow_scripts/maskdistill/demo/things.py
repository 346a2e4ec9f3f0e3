"""The objects in generated scenes, called things: their classes, and how they are painted."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Names of the object classes; the class of `CLASS_NAMES[i]` has the label `i + 1` in a map.
CLASS_NAMES: tuple[str, ...] = (
    "striped_disc",
    "chequered_square",
    "dotted_triangle",
    "spoked_star",
    "ringed_hexagon",
    "hatched_cross",
)

# Factor by which scenes are drawn larger than their images. Averaging down gives smooth edges.
SUPERSAMPLING = 2

# Smallest difference in luminance (0 to 255) between the two colours of a thing.
LEAST_CONTRAST = 70.0

# Weights of red, green and blue in luminance (ITU-R BT.601).
LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Thing:
    """The properties of a thing that are the same in every frame.

    Attributes:
        kind: Position of its class in `CLASS_NAMES`.
        colours: `float64` array of shape `(2, 3)`, the two colours of its pattern in RGB from 0
            to 255.
    """

    kind: int
    colours: np.ndarray


@dataclass(frozen=True)
class Pose:
    """How a thing is seen in one frame.

    Attributes:
        centre: Position `(x, y)` of its centre in pixels.
        radius: Half its extent in pixels.
        to_local: `float64` array of shape `(2, 2)`, the rotation, stretch and shear that map an
            offset from the centre (in units of `radius`) to the thing's own coordinates.
        wobble: Amplitude (relative), frequency (lobes per turn) and phase (radians) of the wave on
            its outline.
        phase: Shift of its pattern, in periods from 0 to 1.
    """

    centre: tuple[float, float]
    radius: float
    to_local: np.ndarray
    wobble: tuple[float, int, float]
    phase: float


def _polygon(u: np.ndarray, v: np.ndarray, sides: int) -> np.ndarray:
    """For each point, the inner radius of the regular polygon through it: `(h, w)` floats."""
    angles = 2 * np.pi * np.arange(sides) / sides
    return np.max([np.cos(a) * u + np.sin(a) * v for a in angles], axis=0)


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) < 0.97


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) < 0.85


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _polygon(u, v, 3) < 0.62


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    lobes, inner, outer = 5, 0.52, 1.15
    # 0 in the middle between two tips and 1 at a tip, linear in the angle.
    tip = np.abs((np.arctan2(v, u) * lobes / (2 * np.pi)) % 1.0 - 0.5) * 2
    return np.hypot(u, v) < inner + (outer - inner) * tip


def _hexagon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _polygon(u, v, 6) < 0.9


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, along = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (across < 0.42) & (along < 1.0)


def _stripes(u: np.ndarray, v: np.ndarray, phase: float) -> np.ndarray:
    return (u / 0.5 + phase) % 1.0 < 0.5


def _chequers(u: np.ndarray, v: np.ndarray, phase: float) -> np.ndarray:
    return ((u / 0.7 + phase) % 1.0 < 0.5) ^ ((v / 0.7 + phase) % 1.0 < 0.5)


def _dots(u: np.ndarray, v: np.ndarray, phase: float) -> np.ndarray:
    return np.hypot((u / 0.38 + phase) % 1.0 - 0.5, (v / 0.38 + phase) % 1.0 - 0.5) < 0.32


def _spokes(u: np.ndarray, v: np.ndarray, phase: float) -> np.ndarray:
    return (np.arctan2(v, u) * 10 / (2 * np.pi) + phase) % 1.0 < 0.5


def _rings(u: np.ndarray, v: np.ndarray, phase: float) -> np.ndarray:
    return (_polygon(u, v, 6) / 0.42 + phase) % 1.0 < 0.5


def _hatching(u: np.ndarray, v: np.ndarray, phase: float) -> np.ndarray:
    return (((u + v) / 0.46 + phase) % 1.0 < 0.3) | (((u - v) / 0.46 + phase) % 1.0 < 0.3)


Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
Pattern = Callable[[np.ndarray, np.ndarray, float], np.ndarray]

# Outline and pattern of each class, in the order of `CLASS_NAMES`. Both are functions of the
# thing's own coordinates, in which it is about 2 wide; an outline is true inside the thing, a
# pattern is true where the thing has its first colour.
FORMS: tuple[tuple[Outline, Pattern], ...] = (
    (_disc, _stripes),
    (_square, _chequers),
    (_triangle, _dots),
    (_star, _spokes),
    (_hexagon, _rings),
    (_cross, _hatching),
)


def draw_colour(rng: np.random.Generator) -> np.ndarray:
    """A random colour, RGB from 0 to 255: `float64` of shape `(3,)`."""
    return rng.uniform(25.0, 230.0, size=3)


def draw_thing(rng: np.random.Generator) -> Thing:
    """Draw a thing: its class, and two colours of different luminance."""
    first = draw_colour(rng)
    second = draw_colour(rng)
    while abs((first - second) @ LUMINANCE) < LEAST_CONTRAST:
        second = draw_colour(rng)
    return Thing(kind=int(rng.integers(len(FORMS))), colours=np.stack([first, second]))


def draw_pose(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Pose:
    """Draw the pose of a thing at a given position: rotation, deformation and pattern shift."""
    angle = rng.uniform(0.0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    shear = rng.uniform(-0.12, 0.12)
    deform = np.array([[stretch, shear], [0.0, 1.0 / stretch]])
    wobble = (rng.uniform(0.0, 0.05), int(rng.integers(2, 5)), rng.uniform(0.0, 2 * np.pi))
    return Pose(centre, radius, deform @ turn, wobble, rng.uniform())


def paint_thing(canvas: np.ndarray, owner: np.ndarray, number: int, thing: Thing, pose: Pose):
    """Paint a thing onto the canvas, and its number into the map of thing numbers, in place.

    Args:
        canvas: `uint8` array of shape `(height, width, 3)` at the supersampled size.
        owner: `uint8` array of shape `(height, width)` of thing numbers, same size.
        number: The thing's number in the scene, from 1.
        thing: The thing to paint.
        pose: Where and how it is seen, in pixels of the finished (not supersampled) image.
    """
    height, width = owner.shape
    x, y = (SUPERSAMPLING * c for c in pose.centre)
    radius = SUPERSAMPLING * pose.radius
    reach = 1.5 * radius
    left, right = max(int(x - reach), 0), min(int(x + reach) + 1, width)
    top, bottom = max(int(y - reach), 0), min(int(y + reach) + 1, height)
    if left >= right or top >= bottom:
        return
    dx = ((np.arange(left, right) + 0.5 - x) / radius)[None, :].astype(np.float32)
    dy = ((np.arange(top, bottom) + 0.5 - y) / radius)[:, None].astype(np.float32)
    m = pose.to_local.astype(np.float32)
    u, v = m[0, 0] * dx + m[0, 1] * dy, m[1, 0] * dx + m[1, 1] * dy

    outline, pattern = FORMS[thing.kind]
    amplitude, lobes, phase = pose.wobble
    swell = 1.0 + amplitude * np.sin(lobes * np.arctan2(v, u) + phase)
    inside = outline(u * swell, v * swell)
    paint = np.where(pattern(u, v, pose.phase)[..., None], *thing.colours)
    canvas[top:bottom, left:right][inside] = paint[inside].astype(np.uint8)
    owner[top:bottom, left:right][inside] = number
