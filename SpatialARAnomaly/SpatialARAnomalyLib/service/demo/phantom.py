"""Seeded normal heads and lesions for the demo, the tests and the benchmarks."""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int16, UInt8
from scipy import ndimage

from SpatialARAnomalyLib.engine.errors import InputError, SpecError
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.geometry import voxel_spacing_mm
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom_anatomy import EDGE_MM, HeadAnatomy, Tissue, Waves

SHAPE_KJI = (24, 192, 192)
"""Thick axial slices as in clinical routine: few enough for a quick demo."""

SPACING_MM = (1.2, 1.2, 6.0)
"""Along i, j and k: 230 mm in plane, 144 mm from the eyes to above the vertex."""

CENTER_RAS_MM = (0.0, 6.0, 17.0)
"""Center of the default grid."""

NOISE = 0.02
"""Standard deviation of the noise in units of white matter."""

GAIN = (300.0, 1500.0)
"""Range of the signal of white matter; MR has no absolute scale."""

BIAS = 0.08
"""Standard deviation of the bias field's logarithm."""

LESION_RADIUS_MM = 14.0
LESION_CONTRAST = 0.45
"""Share by which a lesion is brighter than the tissue; that of a contrast-enhanced mass."""

LESION_IRREGULARITY = 0.1
"""Standard deviation of the radius over directions, in radii."""

LESION_BULGE = 1.25
"""Largest radius over directions, in radii."""

LESION_TEXTURE = 0.05
"""Standard deviation within the mass, in units of white matter."""

EDEMA_REACH = 1.7
"""Outer radius of the edema, in radii."""

EDEMA_DARKENING = 0.18
"""Share of its signal that white matter loses at the mass; none at `EDEMA_REACH`."""

_BRAIN = (Tissue.SULCUS, Tissue.VENTRICLE, Tissue.GRAY, Tissue.DEEP_GRAY, Tissue.WHITE)


@dataclass(frozen=True, eq=False)
class PhantomHead(Volume):
    """A synthetic T1-weighted MR scan with the true tissue and signal of every voxel."""

    tissues: UInt8[np.ndarray, "k j i"] = field(kw_only=True)
    """`Tissue` of every voxel."""
    signal: Float32[np.ndarray, "k j i"] = field(kw_only=True)
    """Signal before noise and rounding."""
    white_signal: Float32[np.ndarray, "k j i"] = field(kw_only=True)
    """Signal of white matter at every voxel: the scanner's gain and bias field."""

    @property
    def brain(self) -> Bool[np.ndarray, "k j i"]:
        """Mask of the brain with sulci and ventricles, without lesions."""
        return np.isin(self.tissues, _BRAIN)


def centered_ras_from_voxel(
    shape_kji: tuple[int, int, int] = SHAPE_KJI,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
) -> Float64[np.ndarray, "4 4"]:
    """Return the affine of an axial scan around the head, with axes to L, P and S."""
    steps = np.array([-spacing_mm[0], -spacing_mm[1], spacing_mm[2]])
    ras_from_voxel = np.diag([*steps, 1.0])
    middle = (np.array(shape_kji[::-1]) - 1) / 2
    ras_from_voxel[:3, 3] = CENTER_RAS_MM - steps * middle
    return ras_from_voxel


def normal_head(
    seed: int,
    *,
    shape_kji: tuple[int, int, int] = SHAPE_KJI,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    ras_from_voxel: Float64[np.ndarray, "4 4"] | None = None,
    noise: float = NOISE,
) -> PhantomHead:
    """Make a T1-weighted scan without a lesion, int16 as from a scanner.

    The seed determines the person, the scanner's gain and bias field, and the Rician noise
    (`noise` is its standard deviation in units of white matter). Without noise, a seed gives the
    same value at the same RAS point on every grid. `spacing_mm` runs along i, j, k;
    `ras_from_voxel` replaces it.

    Raises `SpecError` for a negative seed or noise, or an empty shape.
    """
    if seed < 0 or noise < 0 or min(shape_kji) < 1:
        raise SpecError(
            "phantom-settings",
            "A phantom needs a seed and noise of at least 0 and at least one voxel per axis; "
            f"found seed {seed}, noise {noise:g}, shape {shape_kji}.",
        )
    person, scanner, receiver = np.random.SeedSequence(seed).spawn(3)
    anatomy = HeadAnatomy.draw(np.random.default_rng(person))
    rng = np.random.default_rng(scanner)
    log_gain = rng.uniform(*np.log(GAIN))
    bias = Waves.draw(rng, 3, 250.0, 500.0)
    affine = centered_ras_from_voxel(shape_kji, spacing_mm)
    if ras_from_voxel is not None:
        affine = np.array(ras_from_voxel, np.float64)

    signal = np.empty(shape_kji, np.float32)
    white_signal = np.empty(shape_kji, np.float32)
    tissues = np.empty(shape_kji, np.uint8)
    for k in range(shape_kji[0]):
        ras_mm = _ras_mm(affine, (slice(k, k + 1), slice(shape_kji[1]), slice(shape_kji[2])))
        share, tissue = anatomy.at(ras_mm)
        x, y, z = ras_mm.astype(np.float32)
        white = np.exp(np.float32(log_gain) + BIAS * bias.at((x, y, z)))
        signal[k] = (share * white).reshape(shape_kji[1:])
        white_signal[k] = white.reshape(shape_kji[1:])
        tissues[k] = tissue.reshape(shape_kji[1:])

    voxels = signal
    if noise > 0:
        rng = np.random.default_rng(receiver)
        sigma = np.float32(noise * np.exp(log_gain))
        real = signal + sigma * rng.standard_normal(shape_kji, np.float32)
        voxels = np.hypot(real, sigma * rng.standard_normal(shape_kji, np.float32))
    return PhantomHead(
        _as_int16(voxels),
        affine,
        Modality.MR,
        tissues=tissues,
        signal=signal,
        white_signal=white_signal,
    )


def add_lesion(
    head: PhantomHead,
    seed: int,
    *,
    radius_mm: float = LESION_RADIUS_MM,
    contrast: float = LESION_CONTRAST,
) -> tuple[PhantomHead, Bool[np.ndarray, "k j i"]]:
    """Return the head with another mass, and the mask of the mass without its edema.

    The mass has the volume of a ball of `radius_mm` with an uneven border, lies within the brain
    outside ventricles and earlier lesions, and is on average `contrast` brighter (negative:
    darker) than white matter, in units of white matter, except for its blended edge.

    Raises `SpecError` for a radius that is not positive or a contrast not above -1,
    and `InputError` where such a mass has no room.
    """
    if not radius_mm > 0 or not contrast > -1:
        raise SpecError(
            "phantom-settings",
            "A lesion needs a positive radius and a contrast above -1; "
            f"found {radius_mm:g} mm and {contrast:g}.",
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    free = head.brain & (head.tissues != Tissue.VENTRICLE)
    centers = centers_with_room(head.ras_from_voxel, free, radius_mm)
    box, offset_mm, radii = irregular_ball(
        head, rng, centers[rng.integers(len(centers))], radius_mm
    )
    texture = Waves.draw(rng, 6, 0.4 * radius_mm, radius_mm)

    signal = head.signal[box].ravel()
    white = head.white_signal[box].ravel()
    inside = radii < 1
    x, y, z = offset_mm.astype(np.float32)
    grain = texture.at((x, y, z))
    grain = grain - (grain[inside].mean() if inside.any() else 0)
    mass = 1 + contrast + LESION_TEXTURE * grain
    # Edema spreads in white matter only.
    edema = EDEMA_DARKENING * np.clip((EDEMA_REACH - radii) / (EDEMA_REACH - 1), 0, 1)
    edema = np.where(head.tissues[box].ravel() == Tissue.WHITE, edema, 0)
    lesioned = signal - edema * white
    lesioned += covered((1 - radii) * radius_mm) * (mass * white - lesioned)

    shape = head.signal[box].shape
    new_signal, voxels, tissues = head.signal.copy(), head.voxels.copy(), head.tissues.copy()
    new_signal[box] = lesioned.reshape(shape)
    # The noise stays: at this signal it is additive.
    voxels[box] = _as_int16(voxels[box] + (lesioned - signal).reshape(shape))
    truth = np.zeros(voxels.shape, bool)
    truth[box] = inside.reshape(shape)
    tissues[truth] = Tissue.LESION
    return replace(head, voxels=voxels, signal=new_signal, tissues=tissues), truth


def _ras_mm(
    ras_from_voxel: Float64[np.ndarray, "4 4"], box: tuple[slice, slice, slice]
) -> Float64[np.ndarray, "3 n"]:
    """Return the RAS coordinates of the voxels [k, j, i] of a box."""
    k, j, i = np.mgrid[box].reshape(3, -1)
    ras_mm: Float64[np.ndarray, "3 n"] = ras_from_voxel[:3, :3] @ np.stack([i, j, k])
    ras_mm += ras_from_voxel[:3, 3:]
    return ras_mm


def _as_int16(values: Float[np.ndarray, "k j i"]) -> Int16[np.ndarray, "k j i"]:
    return np.asarray(np.rint(np.clip(values, 0, np.iinfo(np.int16).max)), np.int16)


def covered(depth_mm: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the share of a voxel below a surface, blended as the anatomy's edges."""
    return np.clip(depth_mm / EDGE_MM + 0.5, 0, 1)


def centers_with_room(
    ras_from_voxel: Float64[np.ndarray, "4 4"], free: Bool[np.ndarray, "k j i"], radius_mm: float
) -> Int[np.ndarray, "n 3"]:
    """Return the voxels (k, j, i) around which an irregular ball lies within the free voxels.

    Raises `InputError` where there is none.
    """
    spacing_kji = voxel_spacing_mm(ras_from_voxel)[::-1]
    # Space outside the grid does not count as free.
    room_mm = ndimage.distance_transform_edt(np.pad(free, 1), sampling=spacing_kji)
    centers: Int[np.ndarray, "n 3"] = np.argwhere(
        room_mm[1:-1, 1:-1, 1:-1] > LESION_BULGE * radius_mm
    )
    if not len(centers):
        raise InputError(
            "phantom-lesion-room",
            f"A lesion of {radius_mm:g} mm radius needs brain {LESION_BULGE * radius_mm:g} mm "
            f"around it; this head has at most {room_mm.max():.1f} mm.",
        )
    return centers


def irregular_ball(
    head: Volume, rng: np.random.Generator, center_kji: Int[np.ndarray, " 3"], radius_mm: float
) -> tuple[tuple[slice, slice, slice], Float64[np.ndarray, "3 n"], Float64[np.ndarray, " n"]]:
    """Draw a region with the volume of a ball of `radius_mm` and an uneven border.

    Returns a box [k, j, i] that holds the region and its edema; the offset in mm of each of the
    box's n voxels from the center; and its distance from the center in units of the border's
    distance in that direction, which is below 1 inside.
    """
    border = Waves.draw(rng, 7, 1.1, 2.5)
    center = center_kji[::-1].astype(np.float64)
    box = _box(head, center, radius_mm * max(LESION_BULGE, EDEMA_REACH) + EDGE_MM)
    ras_mm = _ras_mm(head.ras_from_voxel, box)
    offset_mm = ras_mm - (head.ras_from_voxel @ [*center, 1])[:3, None]
    distance_mm = np.linalg.norm(offset_mm, axis=0)
    return box, offset_mm, distance_mm / (radius_mm * _border_radii(border, offset_mm))


def _box(
    head: Volume, center: Float64[np.ndarray, " 3"], reach_mm: float
) -> tuple[slice, slice, slice]:
    """Return the box [k, j, i] of voxels within reach of a voxel."""
    voxel_from_mm = np.linalg.inv(head.ras_from_voxel[:3, :3])
    reach = np.ceil(reach_mm * np.linalg.norm(voxel_from_mm, axis=1))
    low = np.maximum(center - reach, 0).astype(int)
    high = np.minimum(center + reach + 1, head.voxels.shape[::-1]).astype(int)
    i, j, k = (slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
    return k, j, i


def _border_radii(
    border: Waves, offset_mm: Float64[np.ndarray, "3 n"]
) -> Float64[np.ndarray, " n"]:
    """Return the border's distance in every direction, in radii of the ball of equal volume."""

    def uneven(directions: Float64[np.ndarray, "3 n"]) -> Float64[np.ndarray, " n"]:
        x, y, z = directions.astype(np.float32)
        radii = 1 + LESION_IRREGULARITY * border.at((x, y, z)).astype(np.float64)
        return np.clip(radii, 2 - LESION_BULGE, LESION_BULGE)

    # Directions spread evenly over the sphere (golden spiral).
    count = 2000
    height = 1 - (2 * np.arange(count) + 1) / count
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    across = np.sqrt(1 - height**2)
    sphere = np.stack([across * np.cos(turn), across * np.sin(turn), height])
    ball = np.cbrt(np.mean(uneven(sphere) ** 3))
    length_mm = np.maximum(np.linalg.norm(offset_mm, axis=0), 1e-9)
    return np.asarray(np.minimum(uneven(offset_mm / length_mm) / ball, LESION_BULGE))
