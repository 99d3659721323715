"""The look of a scan as a whole, and fitting the looks of normal scans (`cards.suitability`)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from SpatialARAnomalyLib.engine.cards.suitability import MEASURES, Look, Spread, Suitability
from SpatialARAnomalyLib.engine.slices.intensity import intensity_range, scale_intensity
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import IntensitySpec, Modality

SLICES = 16
"""Slices of a scan, evenly spaced, from which contrast and shape are measured."""

STEP_MM = 1.5
"""Approximate distance between the voxels that are measured, the same for any spacing."""

DEPTHS_MM = (4.0, 8.0, 12.0, 18.0, 26.0)
"""Borders between the layers below the surface of the body whose brightness is measured: they
tell a head with scalp and skull from a brain without."""

FAR_MM = 6.0
"""The further of two distances over which brightness changes are measured, for sharpness."""

SHARES = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
"""Percentiles of the brightness."""

BRIGHTNESS_STEP, SHARPNESS_STEP, ASPECT_STEP, SIZE_STEP = 0.05, 0.25, 0.06, 0.1
"""Usual standard deviations between normal scans: of a brightness (0 to 1), of the logarithms
of sharpness, of height to width and of size. Contrast and shape are given in these units."""

PRIOR_SCANS = 1
"""Weight of these units in a covariance of scans, in scans."""

DIRECTIONS = 16
"""Largest number of directions of a spread."""

TOKEN_RIDGE = 0.1
"""Added to the variances of mean tokens, as a share of their average."""

FOLDS = 20
"""Parts of the normal scans that are compared with the others in turn."""


def measure_volume(
    plane_volume: PlaneVolume, modality: Modality
) -> tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "1 g"]]:
    """Return the contrast of slices and the shape of the body, in units of usual differences."""
    voxels, body = plane_volume.voxels, plane_volume.body
    spacing = np.array(plane_volume.spacing_mm[1:])
    steps = np.maximum(1, np.round(STEP_MM / spacing)).astype(int).tolist()
    spacing *= steps
    intensity = IntensitySpec.for_modality(modality)
    value_range = intensity_range(voxels, body, intensity)
    slices = np.flatnonzero(body.any(axis=(1, 2))).tolist()
    contrast, places = [], []
    for number in np.unique(np.linspace(0, len(slices) - 1, SLICES).astype(int)):
        index = slices[number]
        inside = body[index, :: steps[0], :: steps[1]]
        if not inside.any():
            inside = inside | True  # a body between the voxels that are measured
        image = scale_intensity(voxels[index, :: steps[0], :: steps[1]], value_range, intensity)
        contrast.append(_contrast(image.astype(np.float64), inside, spacing))
        places.append(np.argwhere(inside) * spacing)
    height, width = np.maximum(np.concatenate(places).std(axis=0), 1.0)
    shape = [np.log(height / width) / ASPECT_STEP, np.log(height * width) / 2 / SIZE_STEP]
    return np.array(contrast), np.array([shape])


def _contrast(
    image: Float[np.ndarray, "r c"],
    inside: Bool[np.ndarray, "r c"],
    spacing: Float[np.ndarray, "2"],
) -> Float[np.ndarray, " f"]:
    """Return percentiles of the brightness, its mean by depth below the surface, and sharpness."""
    values = image[inside]
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing)[1:-1, 1:-1]
    layer = np.searchsorted(DEPTHS_MM, depth[inside])
    layers = [
        values[layer == number].mean() if (layer == number).any() else values.mean()
        for number in range(len(DEPTHS_MM) + 1)
    ]
    brightness = np.array([*np.percentile(values, SHARES), *layers]) / BRIGHTNESS_STEP
    changes = []
    for lag in (1, max(2, round(FAR_MM / spacing[0]))):
        change = np.abs(image[lag:] - image[:-lag])[inside[lag:] & inside[:-lag]]
        changes.append(change.mean() if change.size else 0.0)
    return np.concatenate([brightness, np.log(np.maximum(changes, 1e-3)) / SHARPNESS_STEP])


def fit_spread(
    looks: Sequence[Float[np.ndarray, "_ f"]], *, prior: float = 0.0, ridge: float = 0.0
) -> Spread:
    """Fit a spread to the rows of scans, each scan with the same weight.

    Args:
        looks: The rows of every scan.
        prior: Weight of a unit covariance, in scans.
        ridge: Added to every variance, as a share of their mean.
    """
    count = len(looks)
    weights = np.concatenate([np.full(len(one), 1 / len(one) / count) for one in looks])
    rows = np.concatenate(looks)
    mean = weights @ rows
    away = (rows - mean) * np.sqrt(weights)[:, None]
    variances, directions = np.linalg.eigh(away.T @ away)
    variances, directions = np.maximum(variances[::-1], 0.0), directions[:, ::-1]
    variances = (count * variances + prior) / (count + prior)
    variances += ridge * variances.mean() + 1e-9
    kept = min(DIRECTIONS, len(mean) - 1, len(rows) - 1)
    return Spread(
        mean=_rounded(mean),
        directions=tuple(_rounded(one) for one in directions[:, :kept].T),
        variances=_rounded(variances[:kept]),
        rest=float(f"{variances[kept:].mean():.5g}"),
    )


def _rounded(values: Float[np.ndarray, " n"]) -> tuple[float, ...]:
    """Return values with five digits, so that a card stays short."""
    return tuple(float(f"{one:.5g}") for one in values.tolist())


def fit_spreads(looks: Sequence[Look], measures: Sequence[str] = MEASURES) -> dict[str, Spread]:
    """Fit a spread to each measure of normal scans."""
    settings = {"tokens": {"ridge": TOKEN_RIDGE}}
    return {
        name: fit_spread(
            [one.rows(name) for one in looks], **settings.get(name, {"prior": PRIOR_SCANS})
        )
        for name in measures
    }


def distances_from_others(
    looks: Sequence[Look], patients: Sequence[str], measures: Sequence[str] = MEASURES
) -> tuple[tuple[float, ...], ...]:
    """Return the distance of every scan from the spread of scans in the other folds.

    `patients` has a word for every scan; the scans of a patient are in one fold.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(patients))}
    folds = np.array([numbers[name] for name in patients]) % min(FOLDS, len(numbers))
    found: list[tuple[float, ...]] = [()] * len(looks)
    for fold in np.unique(folds):
        rest = [one for one, number in zip(looks, folds, strict=True) if number != fold]
        spreads = fit_spreads(rest, measures)
        for i in np.flatnonzero(folds == fold).tolist():
            found[i] = tuple(spreads[name].distance(looks[i].rows(name)) for name in measures)
    return tuple(found)


def fit_suitability(looks: Sequence[Look], patients: Sequence[str]) -> Suitability:
    """Fit to the looks of normal scans, trained on or held out, of two or more patients."""
    distances = tuple(_rounded(np.array(one)) for one in distances_from_others(looks, patients))
    return Suitability(**fit_spreads(looks), distances=distances)
