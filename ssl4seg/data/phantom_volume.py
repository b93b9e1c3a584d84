"""Phantom volumes: three structures in an isotropic volume, drawn in memory from a seed.

An organ has a core 1 and a wall 2 around it, and a curved duct 3 bends around both. They lie turned and warped in
tissue, among decoys of the same greys: balls without a wall, and straight rods as thick as the duct. Greys and
acquisition are those of the cardiac phantom. Results on this dataset say nothing about any organ.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from ssl4seg.data.case import Case, FloatArray, Volume
from ssl4seg.data.phantom import Drawn, Phantom, Traits, acquire, ratio, scaled_by, shift

SIDE = (32, 38)  # voxels of 1 mm; the three sides are drawn independently
BALLS, RODS = 3.0, 1.0  # mean numbers of decoys, at difficulty 1


@dataclass(frozen=True)
class Anatomy(Drawn):
    """What differs between organs: (mean, spread at difficulty 1). Lengths are in mm, angles in degrees."""

    right: float = shift(0.0, 1.5)  # of the organ's centre from the volume's
    down: float = shift(0.0, 1.5)
    deep: float = shift(0.0, 1.5)
    roll: float = shift(0.0, 90.0)  # about each axis
    pitch: float = shift(0.0, 90.0)
    yaw: float = shift(0.0, 90.0)
    length: float = ratio(5.4, 1.2)  # half axes of the core
    width: float = ratio(4.6, 1.2)
    height: float = ratio(3.8, 1.2)
    wall: float = ratio(2.2, 1.2)
    gap: float = shift(0.8, 0.6)  # between wall and duct
    reach: float = shift(75.0, 25.0)  # half the angle by which the duct bends around the organ
    duct: float = ratio(2.0, 1.15)  # radius
    tissue: float = shift(0.4, 0.2)  # grey around the organ, from that of the wall (0) to that of the core (1)


def paint(canvas: FloatArray, distance: FloatArray, grey: float) -> None:
    """Fill the inside; a voxel on the surface is mixed by the share of it that lies inside."""
    canvas += np.clip(0.5 - distance, 0, 1) * (grey - canvas)


def ellipsoid(at: FloatArray, axes: FloatArray) -> FloatArray:
    """Signed distance in mm of points [3, ...], negative inside; nearly exact on the surface of a mild ellipsoid."""
    shape = axes.reshape(3, 1, 1, 1)
    distance: FloatArray = (np.linalg.norm(at / shape, axis=0) - 1) * np.prod(axes) ** (1 / 3)
    return distance


def arc(at: FloatArray, radius: float, reach: float, thickness: float) -> FloatArray:
    """Signed distance in mm to a bent tube around the origin in the plane of the first two axes."""
    x, y, z = at
    angle = np.clip(np.arctan2(y, x), -reach, reach)
    distance: FloatArray = np.sqrt((x - radius * np.cos(angle)) ** 2 + (y - radius * np.sin(angle)) ** 2 + z**2)
    return distance - thickness


def render(seed: int, number: int, difficulty: float) -> Volume:
    """A volume [Z, 1, Y, X] of thin slices; equal arguments give equal volumes."""
    rng = np.random.default_rng([seed, number])
    shape = side_of(rng)
    organ, t = Anatomy.draw(rng, difficulty), Traits.draw(rng, difficulty)
    z, y, x = (np.arange(length, dtype=np.float32) + 0.5 - length / 2 for length in shape)
    at = np.stack(np.broadcast_arrays(x, y[:, None], z[:, None, None]))
    canvas = np.full(shape, t.muscle + organ.tissue * (t.blood - t.muscle), np.float32)
    for _ in range(rng.poisson(BALLS * difficulty)):
        centre = rng.uniform(-14, 14, (3, 1, 1, 1)).astype(np.float32)
        grey = t.muscle + rng.uniform() * (t.blood - t.muscle)
        paint(canvas, ellipsoid(at - centre, np.full(3, rng.uniform(2, 4.5), np.float32)), grey)
    for _ in range(rng.poisson(RODS * difficulty)):
        centre = rng.uniform(-14, 14, (3, 1, 1, 1)).astype(np.float32)
        along = rng.standard_normal(3).astype(np.float32)
        away = np.linalg.norm(np.cross(at - centre, along / np.linalg.norm(along), axis=0), axis=0)
        paint(canvas, away - organ.duct, t.blood * t.rv_blood)

    turn = Rotation.from_euler("xyz", (organ.roll, organ.pitch, organ.yaw), degrees=True).as_matrix().astype(np.float32)
    centre = np.array([organ.right, organ.down, organ.deep], np.float32).reshape(3, 1, 1, 1)
    own = np.einsum("ij,j...->i...", turn, at - centre)
    phase = math.radians(t.warp_phase) + 2 * np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    own = own + 0.25 * t.warp * np.sin(own[[1, 2, 0]] / 4 + phase)
    axes = np.array([organ.length, organ.width, organ.height], np.float32)
    core, outer = ellipsoid(own, axes), ellipsoid(own, axes + np.float32(organ.wall))
    radius = organ.length + organ.wall + organ.gap + organ.duct
    duct = arc(own, radius, math.radians(organ.reach), organ.duct)
    for distance, grey in ((duct, t.blood * t.rv_blood), (outer, t.muscle), (core, t.blood)):
        paint(canvas, distance, grey)
    label = np.select([core < 0, outer < 0, duct < 0], [1, 2, 3], 0).astype(np.uint8)
    return Volume(acquire(canvas, t, rng, thin=True)[:, None], label)


def side_of(rng: np.random.Generator) -> tuple[int, int, int]:
    """Depth, rows and columns, the first that is drawn of a volume."""
    depth, rows, columns = rng.integers(*SIDE, 3, endpoint=True).tolist()
    return depth, rows, columns


class PhantomVolume(Phantom):
    """One case of each patient; the keys are those of `Phantom`."""

    name = "phantom_volume"
    words = ("cases", "slices")

    def cases_of(self, number: int) -> list[Case]:
        depth, *size = side_of(np.random.default_rng([self.seed, number]))
        name = f"phantom{number:04d}"
        case = Case(
            name=name,
            group=name,
            num_images=depth,
            size=tuple(size),
            labeled=True,
            read=partial(scaled_by, self.scaling, partial(render, self.seed, number, self.difficulty)),
            spacing=(1.0, 1.0, 1.0),
        )
        return [self.shaped(case)]
