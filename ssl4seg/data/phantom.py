"""Phantom: synthetic short-axis cardiac MR modelled on ACDC, drawn in memory from a seed.

As in ACDC (Bernard et al., IEEE TMI 2018), the classes are right ventricle 1, myocardium 2 and left ventricle 3;
papillary muscles belong to the left ventricle and the right ventricle's thin free wall to the background; each patient
has an end-diastolic and an end-systolic volume with slices from base to apex; five groups of patients are equally
frequent. All numbers are invented, in the right order of magnitude: results on this dataset say nothing about ACDC.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, Self, Unpack

import numpy as np
from scipy.ndimage import gaussian_filter

from ssl4seg.data.case import Case, FloatArray, LabelArray, Volume
from ssl4seg.data.dataset import SPLITS, Common, Dataset, Split
from ssl4seg.data.intensities import Scaling, normalized
from ssl4seg.data.keys import only
from ssl4seg.keys import SEED, expect, number_in, whole

Phase = Literal["ed", "es"]
PHASES: tuple[Phase, ...] = ("ed", "es")

SLICES = (5, 8)
SIDE = (72, 104)  # pixels; rows and columns are drawn independently
PIXEL = (1.8, 2.4)  # mm
THICKNESS = 10.0  # mm from slice to slice
LEVELS = (0.02, 0.94)  # of the first and the last slice, from base (0) to apex (1)
MAX_DIFFICULTY = 2.0
MAX_PATIENTS = 1000  # in a split


def shift(mean: float, spread: float) -> Any:
    """A trait drawn evenly from mean ± difficulty * spread."""
    return field(metadata={"draw": lambda u: mean + spread * u})


def ratio(mean: float, factor: float) -> Any:
    """A positive trait drawn log-evenly from mean / factor**difficulty to mean * factor**difficulty."""
    return field(metadata={"draw": lambda u: mean * factor**u})


@dataclass(frozen=True)
class Drawn:
    """Traits by `shift` and `ratio`."""

    @classmethod
    def draw(cls, rng: np.random.Generator, difficulty: float) -> Self:
        return cls(**{f.name: f.metadata["draw"](difficulty * rng.uniform(-1, 1)) for f in fields(cls)})


@dataclass(frozen=True)
class Traits(Drawn):
    """What differs between patients: (mean, spread at difficulty 1). To be tuned, as GROUPS and DECOYS.

    Lengths are in mm, angles in degrees, greys from 0 (air) to about 1.
    """

    # Placement
    right: float = shift(0.0, 0.10)  # of the heart's centre from the image's centre, as a share of the field of view
    down: float = shift(0.0, 0.10)
    roll: float = shift(0.0, 40.0)  # of the whole body
    turn: float = shift(15.0, 25.0)  # of the heart: the right ventricle points up by this angle from the body's right
    tilt_right: float = shift(6.0, 8.0)  # of the heart's centre from base to apex
    tilt_down: float = shift(4.0, 8.0)
    # Heart
    size: float = ratio(0.92, 1.16)
    cavity: float = ratio(25.0, 1.12)  # radius of the left ventricle at the base in end-diastole
    wall: float = ratio(9.0, 1.2)
    uneven: float = shift(0.10, 0.15)  # how much thicker the wall is on one side
    oval: float = shift(0.0, 0.09)  # second harmonic of the left ventricle's contour
    dent: float = shift(0.0, 0.035)  # third harmonic
    axis: float = shift(0.0, 180.0)  # direction of these three
    rv_width: float = ratio(28.0, 1.25)
    rv_reach: float = shift(84.0, 12.0)  # half the angle by which it surrounds the left ventricle
    rv_skew: float = shift(0.0, 0.35)  # how far its widest part lies towards one end
    rv_depth: float = shift(0.98, 0.14)  # the level at which it ends
    squeeze: float = ratio(0.70, 1.12)  # cavity's radius at end-systole relative to end-diastole
    papillary: float = ratio(4.2, 1.3)  # radius
    fat_layer: float = ratio(4.0, 2.0)
    # Greys
    blood: float = ratio(0.78, 1.25)
    rv_blood: float = ratio(0.97, 1.12)  # relative to blood
    muscle: float = ratio(0.33, 1.35)
    fat: float = ratio(0.80, 1.35)
    soft: float = ratio(0.45, 1.7)  # fat around the heart, and mediastinum
    liver: float = ratio(0.40, 1.6)
    spleen: float = ratio(0.48, 1.6)
    stomach: float = ratio(0.50, 2.0)
    lung: float = ratio(0.10, 1.8)
    # Surroundings
    chest: float = ratio(66.0, 1.15)  # from the heart's centre forward to the skin
    skin: float = ratio(10.0, 1.8)  # thickness of the fat beneath it
    diaphragm: float = shift(0.0, 10.0)  # shifts liver, spleen and stomach down
    belly: float = ratio(28.0, 1.4)  # radius of the stomach
    pad: float = ratio(50.0, 1.3)  # radius of the fat around the heart
    aorta: float = ratio(10.0, 1.25)  # radius
    warp: float = shift(3.0, 3.0)  # amplitude of the smooth displacement of all contours
    warp_phase: float = shift(0.0, 180.0)
    # Acquisition
    coil: float = ratio(0.5, 1.8)  # log gain from the middle of the field of view to the coil's side
    coil_angle: float = shift(-120.0, 120.0)  # direction of that side; on average in front
    shading: float = shift(0.0, 0.3)  # log gain from the middle to the corners
    blur: float = ratio(0.6, 1.4)  # pixels
    noise: float = ratio(0.035, 2.0)  # grey
    mottle: float = ratio(0.09, 1.6)  # relative unevenness of all tissues


GROUPS: tuple[dict[str, float], ...] = (  # factors by which a disease changes the traits, at difficulty 1
    {},  # normal
    {"cavity": 1.10, "wall": 0.90, "squeeze": 1.18},  # infarct
    {"cavity": 1.22, "wall": 0.85, "squeeze": 1.25},  # dilated
    {"cavity": 0.90, "wall": 1.45, "squeeze": 0.92, "rv_width": 0.90},  # hypertrophic
    {"cavity": 0.92, "rv_width": 1.35},  # abnormal right ventricle
)
DECOYS = 4.0  # mean number of vessels and gut loops that look like blood pool or muscle, at difficulty 1
DECOY = ((0.0, 0.0, 4.0, 0.0), (2 * math.pi, 45.0, 15.0, 1.0))  # lowest and highest values of Patient.decoys
WAVES = (22.0, 18.0)  # mm per radian of the warp
BREATH = 1.5  # mm, standard deviation of a slice's displacement: each is acquired in a breath-hold of its own
FREE_WALL = 3.0  # mm, thickness of the right ventricle's wall
TRABECULAE = 2.0  # mm by which they roughen its cavity; they are labelled as cavity
TAPER = 0.9  # the left ventricle is half an ellipsoid, cut a little above its tip
APEX_SQUEEZE = 0.15  # by this share the cavity is smaller at the apex in end-systole
LEAST_SQUEEZE = 0.97  # so that the weakest heart still contracts
PAPILLARY = (0.6, 0.9)  # distance from the centre in radii, and angle from the lateral wall to either side in radians


class Grid(NamedTuple):
    """Positions of a slice's pixels: x to the body's left, y to its feet, each [H, W] in mm."""

    x: FloatArray
    y: FloatArray
    pixel: float

    def polar(self, x: float, y: float) -> tuple[FloatArray, FloatArray]:
        """Radius in mm and angle in radians about a centre."""
        return np.hypot(self.x - x, self.y - y), np.arctan2(self.y - y, self.x - x)

    def ellipse(self, x: float, y: float, a: float, b: float) -> FloatArray:
        """Signed distance in mm, negative inside; exact for a disc, nearly exact on the contour of a mild ellipse."""
        distance: FloatArray = (np.hypot((self.x - x) / a, (self.y - y) / b) - 1) * math.sqrt(a * b)
        return distance

    def distance(self, level_set: FloatArray) -> FloatArray:
        """Signed distance in mm, to first order, to the zero crossing of a function that is negative inside."""
        down, right = np.gradient(level_set, self.pixel)
        distance: FloatArray = level_set / np.maximum(np.hypot(down, right), 0.3)
        return distance

    def paint(self, canvas: FloatArray, distance: FloatArray, grey: float) -> None:
        """Fill the inside; a pixel on the contour is mixed by the share of it that lies inside."""
        canvas += np.clip(0.5 - distance / self.pixel, 0, 1) * (grey - canvas)


@dataclass(frozen=True)
class Patient:
    """Everything about a patient but the noise."""

    traits: Traits
    shape: tuple[int, int]
    """Rows and columns."""
    pixel: float
    """mm."""
    breath: FloatArray
    """[S, 2]: displacement of each slice, right and down in mm."""
    decoys: FloatArray
    """[N, 4]: angle in radians, distance from the heart in mm, radius in mm, grey from muscle (0) to blood (1)."""

    @classmethod
    def draw(cls, seed: int, number: int, difficulty: float) -> Self:
        rng = np.random.default_rng([seed, number])
        slices = int(rng.integers(*SLICES, endpoint=True))  # drawn first, so that the size depends on no other constant
        rows, columns = rng.integers(*SIDE, 2, endpoint=True).tolist()
        pixel = round(float(rng.uniform(*PIXEL)), 3)
        group = GROUPS[rng.integers(len(GROUPS))]
        traits = Traits.draw(rng, difficulty)
        traits = replace(traits, **{key: getattr(traits, key) * group[key] ** difficulty for key in group})
        breath = rng.normal(0, BREATH * difficulty, (slices, 2)).astype(np.float32)
        decoys = rng.uniform(*DECOY, (rng.poisson(DECOYS * difficulty), 4))
        return cls(traits, (rows, columns), pixel, breath, decoys.astype(np.float32))

    def slices(self) -> Iterator[tuple[float, Grid]]:
        """The level of each slice and the positions of its pixels, from the heart's centre."""
        t, (rows, columns) = self.traits, self.shape
        roll, wave = math.radians(t.roll), math.radians(t.warp_phase)
        for level, (right, down) in zip(np.linspace(*LEVELS, len(self.breath)), self.breath, strict=True):
            j = (np.arange(columns, dtype=np.float32) + 0.5 - (0.5 + t.right) * columns) * self.pixel - right
            i = (np.arange(rows, dtype=np.float32)[:, None] + 0.5 - (0.5 + t.down) * rows) * self.pixel - down
            x, y = math.cos(roll) * j + math.sin(roll) * i, math.cos(roll) * i - math.sin(roll) * j
            bent = x + t.warp * np.sin(y / WAVES[0] + wave), y + t.warp * np.sin(x / WAVES[1] - 2 * wave)
            yield float(level), Grid(*bent, self.pixel)


def paint_body(canvas: FloatArray, grid: Grid, level: float, patient: Patient) -> None:
    """Paint chest wall, lungs and the organs around the heart; their greys are close to those of blood and muscle."""
    t = patient.traits
    torso = grid.ellipse(-20, 125 - t.chest, 165, 125)
    grid.paint(canvas, torso, t.fat)
    grid.paint(canvas, torso + t.skin, t.muscle)
    grid.paint(canvas, torso + t.skin + 8, t.lung)
    low = t.diaphragm - 14 * level  # towards the apex the plane cuts the diaphragm's dome higher up
    grid.paint(canvas, grid.ellipse(-20, -12, 1.3 * t.pad, t.pad), t.soft)
    grid.paint(canvas, grid.ellipse(-62, 82 + low, 95, 52), t.liver)
    grid.paint(canvas, grid.ellipse(92, 56 + low, 28, 38), t.spleen)
    stomach = grid.ellipse(42, 74 + low, 1.3 * t.belly, t.belly)
    grid.paint(canvas, stomach, t.muscle)
    grid.paint(canvas, stomach + 4, t.stomach)
    vessels = [(66.0, 22.0, t.aorta, 1.0)]  # the descending aorta, and the decoys
    for angle, gap, radius, grey in patient.decoys.tolist():
        out = 52 * t.size + radius + gap
        vessels.append((out * math.cos(angle), out * math.sin(angle), radius, grey))
    for x, y, radius, grey in vessels:
        disc = grid.ellipse(x, y, radius, radius)
        grid.paint(canvas, disc - 2, t.muscle)
        grid.paint(canvas, disc, t.muscle + grey * (t.blood - t.muscle))


def paint_heart(canvas: FloatArray, grid: Grid, level: float, t: Traits, phase: Phase) -> LabelArray:
    """Paint the heart over the body, and return its label [H, W]."""
    axis, to_rv = math.radians(t.axis), math.pi + math.radians(t.turn)
    aside = 0.4 * t.size * t.rv_width  # the left ventricle lies beside the heart's centre
    x = t.tilt_right * (level - 0.5) - aside * math.cos(to_rv)
    y = t.tilt_down * (level - 0.5) - aside * math.sin(to_rv)
    r, phi = grid.polar(x, y)

    taper = t.size * math.sqrt(1 - (TAPER * level) ** 2)
    pool = taper * t.cavity * (1 + t.oval * np.cos(2 * (phi - axis)) + t.dent * np.cos(3 * (phi + axis)))
    outer = pool + t.size * t.wall * (1 + t.uneven * np.cos(phi - 2 * axis))
    width = t.size * t.rv_width * max(0.0, 1 - (level / t.rv_depth) ** 2)
    if phase == "es":
        squeeze = min(t.squeeze, LEAST_SQUEEZE)
        area = outer**2 - pool**2  # the muscle's area stays the same, so that the wall around a smaller pool is thicker
        pool = pool * squeeze * (1 - APEX_SQUEEZE * level)
        outer = np.sqrt(pool**2 + area)
        width *= squeeze
    side = np.angle(np.exp(1j * (phi - to_rv))) / math.radians(t.rv_reach)  # -1 and 1 at the ends of the crescent
    side = np.clip(side, -1, 1)
    bulge = np.maximum(np.cos(np.pi / 2 * (side + t.rv_skew * (1 - side**2))), 0) ** 0.8
    free = outer + width * bulge  # the right ventricle's outer contour, its muscle included

    heart, wall, rv, lv = (grid.distance(r - edge) for edge in (free, outer, free - FREE_WALL, pool))
    grid.paint(canvas, heart - t.fat_layer, t.fat)
    grid.paint(canvas, heart, t.muscle)
    grid.paint(canvas, rv + TRABECULAE * np.cos(7 * phi + axis) ** 2, t.blood * t.rv_blood)
    grid.paint(canvas, wall, t.muscle)
    grid.paint(canvas, lv, t.blood)
    papillary = t.size * t.papillary * (1 - (2 * level - 1) ** 2)  # largest half-way
    out, apart = PAPILLARY[0] * float(pool.mean()), PAPILLARY[1]
    for angle in (to_rv + math.pi - apart, to_rv + math.pi + apart):
        muscle = grid.ellipse(x + out * math.cos(angle), y + out * math.sin(angle), papillary, papillary)
        grid.paint(canvas, muscle, t.muscle)
    return np.select([r < pool, r < outer, r < free - FREE_WALL], [3, 2, 1], 0).astype(np.uint8)


def acquire(tissue: FloatArray, t: Traits, rng: np.random.Generator, *, thin: bool = False) -> FloatArray:
    """Image the tissue [S, H, W]: add mottle, blur, coil shading and Rician noise, and scale to [0, 1].

    Args:
        thin: whether slices are as thin as pixels are wide, so that mottle and blur reach across them.
    """
    mottle = gaussian_filter(rng.standard_normal(tissue.shape, np.float32), (1.5 * thin, 1.5, 1.5))
    image = gaussian_filter(tissue * (1 + t.mottle / mottle.std() * mottle), (t.blur * thin, t.blur, t.blur))
    v, u = (np.linspace(-1, 1, side, dtype=np.float32) for side in tissue.shape[1:])
    toward = math.radians(t.coil_angle)
    gain = t.coil * (math.cos(toward) * u + math.sin(toward) * v[:, None]) + t.shading * (u**2 + v[:, None] ** 2) / 2
    real, imaginary = t.noise * rng.standard_normal((2, *tissue.shape), np.float32)
    image = np.hypot(image * np.exp(gain) + real, imaginary)
    scaled: FloatArray = (image - image.min()) / np.ptp(image)
    return scaled


@lru_cache(maxsize=2)
def body(seed: int, number: int, difficulty: float) -> tuple[Patient, FloatArray]:
    """A patient and the body without the heart [S, H, W], which both phases share. Read-only, since it is cached."""
    patient = Patient.draw(seed, number, difficulty)
    canvas = np.zeros((len(patient.breath), *patient.shape), np.float32)
    for image, (level, grid) in zip(canvas, patient.slices(), strict=True):
        paint_body(image, grid, level, patient)
    canvas.flags.writeable = False
    return patient, canvas


def render(seed: int, number: int, difficulty: float, phase: Phase) -> Volume:
    """A volume; equal arguments give equal volumes."""
    patient, canvas = body(seed, number, difficulty)
    canvas = canvas.copy()
    slices = zip(canvas, patient.slices(), strict=True)
    label = np.stack([paint_heart(image, grid, level, patient.traits, phase) for image, (level, grid) in slices])
    # Phases count from 1: NumPy draws the same from [seed, number, 0] as from [seed, number], which drew the patient.
    rng = np.random.default_rng([seed, number, 1 + PHASES.index(phase)])
    image = acquire(canvas, patient.traits, rng)[:, None]
    return Volume(image, label)


def scaled_by(scaling: Scaling, read: Callable[[], Volume]) -> Volume:
    """A volume whose values lie in [0, 1], scaled as the dataset's keys say; `minmax` leaves it as it is."""
    image, label = read()
    return Volume(normalized(image, *scaling), label)


class Phantom(Dataset):
    """Patients numbered from 0 (train), 1000 (val) and 2000 (test), so that no split depends on another's size.

    Args:
        num_train, num_val, num_test: patients per split, 1 to 1000.
        seed: together with a patient's number it determines everything about the patient.
        difficulty: how much patients differ, 0 (all alike) to 2.
        common: the keys of `Dataset`; 4 classes and 1 channel.
    """

    name = "phantom"

    def __init__(
        self,
        *,
        num_train: int,
        num_val: int,
        num_test: int,
        seed: int,
        difficulty: float = 1.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        expect("dataset.num_classes", self.num_classes, only(4, "the phantom"))
        expect("dataset.channels", self.channels, only(1, "the phantom"))
        expect("dataset.seed", seed, SEED)
        expect("dataset.difficulty", difficulty, number_in(f"[0, {MAX_DIFFICULTY:g}]"))
        counts = {"train": num_train, "val": num_val, "test": num_test}
        for split, count in counts.items():
            expect(f"dataset.num_{split}", count, whole(1, MAX_PATIENTS))
        self.seed, self.difficulty = seed, float(difficulty)
        firsts = {split: i * MAX_PATIENTS for i, split in enumerate(SPLITS)}
        self.numbers = {split: range(first, first + counts[split]) for split, first in firsts.items()}

    def cases(self, split: Split) -> list[Case]:
        return [case for number in self.numbers[split] for case in self.cases_of(number)]

    def cases_of(self, number: int) -> list[Case]:
        """The cases of a patient: both phases."""
        return [self.case(number, phase) for phase in PHASES]

    def case(self, number: int, phase: Phase) -> Case:
        group = f"phantom{number:04d}"
        patient = Patient.draw(self.seed, number, self.difficulty)
        case = Case(
            name=f"{group}_{phase}",
            group=group,
            num_images=len(patient.breath),
            size=patient.shape,
            labeled=True,
            read=partial(scaled_by, self.scaling, partial(render, self.seed, number, self.difficulty, phase)),
            spacing=(THICKNESS, patient.pixel, patient.pixel),
        )
        return self.shaped(case)
