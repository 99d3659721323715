"""A seeded T1-weighted head as a function of space: the same head on every grid.

Tissues are painted from the skin inward, each over the earlier ones, where a depth below a
surface is positive. Numbers are millimeters in the frame of an average head (x right,
y anterior, z superior, origin in the middle of the brain) and signals in units of white matter.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from scipy.spatial.transform import Rotation

EDGE_MM = 1.4
"""Width over which one tissue blends into the next."""

_Field = Float32[np.ndarray, " n"]
_Place = tuple[_Field, _Field, _Field]
_Point = tuple[float, float, float]


class Tissue(IntEnum):
    """The tissue at a point of the phantom."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    MARROW = 5
    EYE = 6
    OUTER_CSF = 7
    """Between brain and skull."""
    SULCUS = 8
    """CSF within the brain's hull, outside its ventricles."""
    VENTRICLE = 9
    GRAY = 10
    DEEP_GRAY = 11
    WHITE = 12
    LESION = 13


_T1_SIGNAL: dict[Tissue, float] = {
    Tissue.AIR: 0.0, Tissue.SKIN: 0.6, Tissue.FAT: 1.15, Tissue.MUSCLE: 0.5, Tissue.BONE: 0.1,
    Tissue.MARROW: 0.6, Tissue.EYE: 0.24, Tissue.OUTER_CSF: 0.27, Tissue.SULCUS: 0.27,
    Tissue.VENTRICLE: 0.2, Tissue.GRAY: 0.68, Tissue.DEEP_GRAY: 0.79, Tissue.WHITE: 1.0,
}  # fmt: skip
"""Signal in an average scan."""


@dataclass(frozen=True, kw_only=True)
class Waves:
    """A smooth random field of zero mean and unit variance: a sum of plane waves."""

    wavevectors: Float64[np.ndarray, "n 3"]
    phases: Float64[np.ndarray, " n"]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, count: int, shortest_mm: float, longest_mm: float
    ) -> "Waves":
        """Draw `count` waves in random directions, of lengths between the two given."""
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths_mm = rng.uniform(shortest_mm, longest_mm, (count, 1))
        return cls(
            wavevectors=directions * 2 * np.pi / lengths_mm,
            phases=rng.uniform(0, 2 * np.pi, count),
        )

    def _angles(self, place: _Place, wave: int) -> _Field:
        x, y, z = place
        kx, ky, kz = (float(component) for component in self.wavevectors[wave])
        return kx * x + ky * y + kz * z + float(self.phases[wave])

    def at(self, place: _Place) -> _Field:
        """Return the value of the field at every point."""
        total = np.zeros_like(place[0])
        for wave in range(len(self.phases)):
            total += np.cos(self._angles(place, wave))
        return total * float(np.sqrt(2 / len(self.phases)))

    def distance_mm(self, place: _Place) -> _Field:
        """Return the distance to the nearest zero of the field, to first order."""
        total = np.zeros_like(place[0])
        slope = [np.zeros_like(total) for _ in range(3)]
        for wave, wavevector in enumerate(self.wavevectors):
            angles = self._angles(place, wave)
            total += np.cos(angles)
            sine = np.sin(angles)
            for component, along in zip(wavevector, slope, strict=True):
                along += float(component) * sine
        steepness = np.sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2)
        # The first order fails where the field is flat: its typical slope is the lower bound.
        typical = float(np.sqrt((self.wavevectors**2).sum() / 2))
        return np.asarray(np.abs(total) / np.maximum(steepness, 0.4 * typical))


def _from(place: _Place, center: _Point) -> _Place:
    """Return the coordinates of the points relative to a center."""
    return place[0] - center[0], place[1] - center[1], place[2] - center[2]


def _level(offset: _Place, semiaxes: _Point, squareness: float = 2.0) -> _Field:
    """Return 0 at the center, 1 on an ellipsoid, or on a superellipsoid for another squareness."""
    x, y, z = (np.abs(axis) / np.float32(end) for axis, end in zip(offset, semiaxes, strict=True))
    if squareness == 2.0:
        return np.sqrt(x * x + y * y + z * z)
    power = np.float32(squareness)
    return np.asarray((x**power + y**power + z**power) ** (1 / power))


def _depth_mm(offset: _Place, semiaxes: _Point, squareness: float = 2.0) -> _Field:
    """Return the depth below the surface of `_level` 1, along the ray from the center."""
    level = np.maximum(_level(offset, semiaxes, squareness), 1e-3)
    radius_mm = np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2)
    # At the center itself the depth is the shortest semiaxis.
    return np.where(radius_mm < 1e-2, np.float32(min(semiaxes)), radius_mm / level - radius_mm)


def _tube_depth_mm(
    place: _Place, start: _Point, end: _Point, radii_mm: tuple[float, float]
) -> _Field:
    """Return the depth below the surface of a straight tube with round ends and even taper."""
    x, y, z = _from(place, start)
    ax, ay, az = np.subtract(end, start).tolist()
    share = np.clip((ax * x + ay * y + az * z) / (ax * ax + ay * ay + az * az), 0, 1)
    radius_mm = radii_mm[0] + share * (radii_mm[1] - radii_mm[0])
    distance = np.sqrt((x - share * ax) ** 2 + (y - share * ay) ** 2 + (z - share * az) ** 2)
    return np.asarray(radius_mm - distance)


def _smooth_union_mm(one_mm: _Field, other_mm: _Field, fillet_mm: float) -> _Field:
    """Return the greater of two depths, with the crease between them filled."""
    nearness = np.maximum(fillet_mm - np.abs(one_mm - other_mm), 0)
    return np.asarray(np.maximum(one_mm, other_mm) + nearness**2 / (4 * fillet_mm))


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """Points that are painted, each tissue over the earlier ones."""

    place: _Place
    signal: _Field
    tissues: UInt8[np.ndarray, " n"]
    palette: dict[Tissue, float]

    def paint(self, depth_mm: _Field, tissue: Tissue) -> None:
        """Paint where the depth is positive, blending over the edge."""
        share = np.clip(depth_mm / EDGE_MM + 0.5, 0, 1)
        self.signal[:] += share * (self.palette[tissue] - self.signal)
        self.tissues[depth_mm > 0] = tissue

    def part(self, inside: Bool[np.ndarray, " n"]) -> "_Canvas":
        """Return a copy of some of the points; `put` copies it back."""
        x, y, z = (axis[inside] for axis in self.place)
        return replace(
            self, place=(x, y, z), signal=self.signal[inside], tissues=self.tissues[inside]
        )

    def put(self, inside: Bool[np.ndarray, " n"], part: "_Canvas") -> None:
        """Copy the painted part back."""
        self.signal[inside] = part.signal
        self.tissues[inside] = part.tissues


@dataclass(frozen=True, kw_only=True)
class HeadAnatomy:
    """One normal head: the properties that vary between people."""

    head_from_ras: Float64[np.ndarray, "4 4"]
    asymmetry: float
    """Relative widening of the right half and narrowing of the left."""
    warp: tuple[Waves, ...]
    """Fields of the displacement along x, y and z."""
    warp_mm: float
    wobble: Waves
    """Unevenness of skull, ventricles and cortex thickness."""
    gyri: tuple[Waves, Waves]
    """Right and left fields, whose zeros are the sulci."""
    sulcus_depth: Waves
    sulcus_mm: float
    """Half width of a sulcus, which grows with age."""
    ventricles: tuple[float, ...]
    """Right and left width in units of the average."""
    scalp_mm: float
    skull_mm: float
    palette: dict[Tissue, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "HeadAnatomy":
        """Draw a head: size within 6 %, turned by up to 4 degrees, shifted by up to 4 mm."""
        size = rng.uniform(0.96, 1.04) * rng.uniform(0.98, 1.02, 3)
        ras_from_head = np.eye(4)
        rotation = Rotation.from_euler("xyz", rng.uniform(-4, 4, 3), degrees=True)
        ras_from_head[:3, :3] = rotation.as_matrix() * size
        ras_from_head[:3, 3] = rng.uniform(-4, 4, 3)
        gamma = rng.uniform(0.85, 1.2)
        palette = {
            tissue: float(signal**gamma * rng.uniform(0.97, 1.03))
            for tissue, signal in _T1_SIGNAL.items()
        }
        palette[Tissue.WHITE] = 1.0
        ventricle = rng.uniform(0.75, 1.35)
        return cls(
            head_from_ras=np.linalg.inv(ras_from_head),
            asymmetry=rng.uniform(-0.02, 0.02),
            warp=tuple(Waves.draw(rng, 4, 70.0, 160.0) for _ in range(3)),
            warp_mm=rng.uniform(1.2, 2.2),
            wobble=Waves.draw(rng, 6, 22.0, 45.0),
            gyri=(Waves.draw(rng, 14, 17.0, 25.0), Waves.draw(rng, 14, 17.0, 25.0)),
            sulcus_depth=Waves.draw(rng, 5, 25.0, 50.0),
            sulcus_mm=rng.uniform(0.35, 0.8),
            ventricles=tuple((ventricle * rng.uniform(0.92, 1.08, 2)).tolist()),
            scalp_mm=rng.uniform(4.5, 7.5),
            skull_mm=rng.uniform(5.5, 7.5),
            palette=palette,
        )

    def at(
        self, ras_mm: Float64[np.ndarray, "3 n"]
    ) -> tuple[Float32[np.ndarray, " n"], UInt8[np.ndarray, " n"]]:
        """Return the signal in units of white matter and the `Tissue` at every point."""
        affine = self.head_from_ras
        x, y, z = (affine[:3, :3] @ ras_mm + affine[:3, 3:]).astype(np.float32)
        canvas = _Canvas(
            place=(x, y, z),
            signal=np.zeros_like(x),
            tissues=np.zeros(x.shape, np.uint8),
            palette=self.palette,
        )
        near = _level((x, y - 2, z + 10), (90.0, 118.0, 150.0)) < 1
        head = self._warped(canvas.part(near))
        cavity_mm = self._cavity_depth_mm(head.place)
        wobble = self.wobble.at(head.place)
        self._paint_outside_skull(head, cavity_mm, wobble)
        inside = cavity_mm > -EDGE_MM
        brain = head.part(inside)
        brain.paint(cavity_mm[inside], Tissue.OUTER_CSF)
        self._paint_cerebrum(brain, wobble[inside])
        self._paint_cerebellum(brain, wobble[inside])
        self._paint_deep(brain, wobble[inside])
        head.put(inside, brain)
        canvas.put(near, head)
        return canvas.signal, canvas.tissues

    def _warped(self, canvas: _Canvas) -> _Canvas:
        x, y, z = canvas.place
        dx, dy, dz = (self.warp_mm * waves.at(canvas.place) for waves in self.warp)
        x = x * (1 + self.asymmetry * np.tanh(x / 30))
        return replace(canvas, place=(x + dx, y + dy, z + dz))

    def _cerebrum_depth_mm(self, place: _Place) -> _Field:
        """Return the depth below the hull of both hemispheres and temporal lobes."""
        x, y, z = place
        # The head is widest behind its middle.
        x = x * (1 + 0.0012 * y + 0.000007 * y * y)
        above = _depth_mm((x, y, z - 2), (65.0, 84.0, 71.0), 2.3)
        below = _depth_mm((x, y, z - 2), (65.0, 84.0, 24.0), 2.4)
        lobe = _depth_mm((np.abs(x) - 42, y - 3, z + 20), (24.0, 41.0, 22.0))
        return np.asarray(np.maximum(np.where(z > 2, above, below), lobe))

    def _cerebellum_depth_mm(self, place: _Place) -> _Field:
        x, y, z = place
        return _depth_mm((x, y + 48, z + 34), (51.0, 34.0, 24.0), 2.4)

    def _brainstem_depth_mm(self, place: _Place) -> _Field:
        stem = _tube_depth_mm(place, (0.0, -6.0, -10.0), (0.0, -22.0, -90.0), (14.0, 8.0))
        pons = _depth_mm(_from(place, (0.0, -6.0, -33.0)), (18.0, 14.0, 15.0))
        return np.asarray(np.maximum(stem, pons))

    def _cavity_depth_mm(self, place: _Place) -> _Field:
        """Return the depth below the dura: the brain and a film of CSF."""
        posterior = _smooth_union_mm(
            self._cerebrum_depth_mm(place), self._cerebellum_depth_mm(place), 14.0
        )
        return np.asarray(2.5 + np.maximum(posterior, self._brainstem_depth_mm(place)))

    def _paint_outside_skull(self, head: _Canvas, cavity_mm: _Field, wobble: _Field) -> None:
        x, y, z = head.place
        skull = self.skull_mm + 0.4 * wobble
        table = skull + self.scalp_mm
        narrowing = x * (1 + 0.0012 * y)
        # The scalp follows the vault; face and neck have a shape of their own.
        vault = cavity_mm + table
        face = _depth_mm((narrowing, y - 6, z + 6), (73.0, 96.0, 150.0))
        face = face - np.maximum(z + 22, 0) * 1.1
        nose = _depth_mm((x, y - 96, z + 48), (15.0, 22.0, 26.0))
        skin = np.maximum(_smooth_union_mm(vault, face, 10.0), nose)
        head.paint(skin, Tissue.SKIN)
        head.paint(skin - 2, Tissue.FAT)
        muscle = np.minimum(skin - 4.5 - 1.2 * wobble, -8 - z + 0.6 * np.abs(x) - 0.2 * y)
        head.paint(muscle, Tissue.MUSCLE)
        head.paint(np.minimum(muscle, 2.2 * wobble - 2), Tissue.FAT)
        orbit = _depth_mm((np.abs(x) - 30, y - 63, z + 31), (17.0, 25.0, 16.0))
        head.paint(np.minimum(orbit + 3, skin - 5), Tissue.BONE)
        head.paint(np.minimum(orbit, skin - 3), Tissue.FAT)
        nerve = _tube_depth_mm(
            (np.abs(x), y, z), (8.0, 36.0, -25.0), (32.0, 68.0, -31.0), (2.0, 2.0)
        )
        head.paint(nerve, Tissue.GRAY)
        head.paint(_depth_mm((np.abs(x) - 32, y - 74, z + 31), (12.0, 12.0, 12.0)), Tissue.EYE)
        cells = _depth_mm((x, y - 62, z + 38), (11.0, 30.0, 20.0))
        antrum = _depth_mm((np.abs(x) - 28, y - 66, z + 64), (15.0, 18.0, 17.0))
        sphenoid = _depth_mm((x, y - 24, z + 40), (11.0, 13.0, 9.0))
        air = np.maximum(np.maximum(cells, antrum), sphenoid)
        head.paint(np.minimum(air + 2, skin - 4), Tissue.BONE)
        head.paint(np.minimum(air - 2.2 * np.maximum(wobble, 0), skin - 6), Tissue.AIR)
        mastoid = _depth_mm((np.abs(x) - 54, y + 16, z + 44), (12.0, 15.0, 16.0))
        head.paint(mastoid, Tissue.BONE)
        head.paint(np.minimum(mastoid, -1.5 * wobble - 1), Tissue.AIR)
        bone = cavity_mm + skull
        head.paint(bone, Tissue.BONE)
        marrow = np.minimum(bone - 2.0, -cavity_mm - 1.6)
        head.paint(np.minimum(marrow, z + 30), Tissue.MARROW)

    def _paint_cerebrum(self, brain: _Canvas, wobble: _Field) -> None:
        x, y, z = brain.place
        hull_mm = self._cerebrum_depth_mm(brain.place)
        # The falx separates the hemispheres above and around the corpus callosum.
        around = _level((np.zeros_like(x), y - 1, z - 6), (1.0, 46.0, 23.0)) - 1
        beyond_mm = np.maximum(-around * 26, 0)
        midline_mm = np.hypot(np.maximum(np.abs(x + 0.8 * wobble), 0), beyond_mm)
        # The Sylvian fissure rises backward between temporal and frontal lobe.
        aside = np.abs(x) + 0.6 * wobble
        fissure = np.abs(z - 2 + 0.5 * y + 0.8 * wobble) / 1.12
        fissure = np.hypot(fissure, np.maximum(38 - aside, 0))
        sylvian_mm = np.hypot(fissure, np.maximum(np.abs(y - 14) - 34, 0))
        pial_mm = np.minimum(hull_mm, np.minimum(midline_mm + 1.0, sylvian_mm))

        # Sulci run inward: their pattern hardly changes along rays to the hemisphere's center.
        offset = (np.abs(x) - 20, y, z - 4)
        stretch = 1 / np.maximum(_level(offset, (46.0, 84.0, 66.0)), 0.15)
        scale = 0.6 + 0.4 * stretch
        pattern = (offset[0] * scale, offset[1] * scale, offset[2] * scale)
        right, left = (waves.distance_mm(pattern) / scale for waves in self.gyri)
        sheet_mm = np.where(x > 0, right, left)
        reach_mm = 17 + 4 * self.sulcus_depth.at(brain.place)
        sulcus_mm = np.hypot(sheet_mm, np.maximum(pial_mm - reach_mm, 0))
        width_mm = self.sulcus_mm * (1 + 1.5 * np.exp(-np.maximum(pial_mm, 0) / 5))
        surface_mm = np.minimum(
            np.minimum(hull_mm, sulcus_mm - width_mm),
            np.minimum(midline_mm - 1.0, sylvian_mm - 1.2 - self.sulcus_mm),
        )
        brain.paint(hull_mm, Tissue.SULCUS)
        brain.paint(surface_mm, Tissue.GRAY)
        brain.paint(surface_mm - 2.7 - 0.3 * wobble, Tissue.WHITE)

    def _paint_cerebellum(self, brain: _Canvas, wobble: _Field) -> None:
        x, y, _ = brain.place
        hull_mm = self._cerebellum_depth_mm(brain.place)
        vermis = np.hypot(x, np.maximum(y + 72, 0))
        surface_mm = np.minimum(hull_mm, vermis - 1.5)
        shells = np.hypot(x / 46, (y + 22) / 30) * 28 + wobble
        folia = np.cos(shells * (2 * np.pi / 5))
        brain.paint(hull_mm, Tissue.SULCUS)
        brain.paint(np.minimum(surface_mm, 1.6 + 1.5 * folia), Tissue.GRAY)
        branches_mm = np.minimum(surface_mm - 5, 1.5 * folia - 0.7)
        core_mm = np.minimum(surface_mm - 13 - 2 * wobble, 0.4 * np.abs(x) - 2)
        brain.paint(np.maximum(branches_mm, core_mm), Tissue.WHITE)
        brain.paint(self._brainstem_depth_mm(brain.place), Tissue.WHITE)

    def _paint_deep(self, brain: _Canvas, wobble: _Field) -> None:
        """Paint nuclei and ventricles, both sides at once."""
        central = _level(_from(brain.place, (0.0, -4.0, 4.0)), (48.0, 66.0, 50.0)) < 1
        deep = brain.part(central)
        x, y, z = deep.place
        uneven = wobble[central]
        side = (np.abs(x), y, z)
        right, left = self.ventricles
        width = np.where(x > 0, np.float32(right), np.float32(left)) - 1

        deep.paint(_depth_mm(_from(side, (11.0, -2.0, 5.0)), (9.0, 15.0, 10.0)), Tissue.DEEP_GRAY)
        turned = (side[0] * 0.94 + y * 0.33 - 30, y * 0.94 - side[0] * 0.33 - 6, z)
        deep.paint(_depth_mm(turned, (5.5, 16.0, 10.0)), Tissue.DEEP_GRAY)
        caudate = np.maximum(
            _tube_depth_mm(side, (14.5, 30.0, 6.0), (17.0, 16.0, 14.0), (6.0, 5.0)),
            _tube_depth_mm(side, (17.0, 16.0, 14.0), (21.0, -18.0, 20.0), (5.0, 2.0)),
        )
        deep.paint(caudate + 3 * width, Tissue.DEEP_GRAY)
        deep.paint(
            _tube_depth_mm(side, (25.0, 2.0, -18.0), (28.0, -22.0, -12.0), (6.0, 4.0)), Tissue.GRAY
        )

        horns = (
            ((11.0, 38.0, 6.0), (7.0, 18.0, 13.0), (4.5, 4.5)),
            ((7.0, 18.0, 13.0), (13.0, -12.0, 20.0), (4.5, 5.0)),
            ((13.0, -12.0, 20.0), (24.0, -28.0, 10.0), (5.0, 6.5)),
            ((24.0, -28.0, 10.0), (26.0, -50.0, 4.0), (6.0, 2.5)),
            ((24.0, -28.0, 10.0), (33.0, -8.0, -14.0), (4.0, 2.5)),
        )
        lateral = np.full_like(x, -99)
        for start, end, radii_mm in horns:
            lateral = np.maximum(lateral, _tube_depth_mm(side, start, end, radii_mm))
        lateral += 4.5 * width + 0.5 * uneven
        third = _depth_mm((x, y - 6, z + 1), (2.2, 17.0, 11.0)) + width
        fourth = _depth_mm(_from(deep.place, (0.0, -25.0, -33.0)), (8.0, 5.0, 11.0))
        ventricle = np.maximum(np.maximum(lateral, third), fourth)
        # The septum separates left and right.
        deep.paint(np.maximum(np.minimum(ventricle, np.abs(x) - 0.8), third), Tissue.VENTRICLE)
        brain.put(central, deep)
