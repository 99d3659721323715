"""Pixel and image measures from histograms by patient, and their resamples.

A method's scores are sorted into bins of one relative width above the lowest score, so that
the histograms of all patients are small and can be added for every resample.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from Benchmark.real.patients import Compared
from jaxtyping import Float, Int
from scipy import ndimage
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.evaluation.metrics import PRO_LIMIT, patient_weights
from SpatialARAnomalyLib.engine.files import replacing

OCTAVES, PER_OCTAVE = 16, 512
BINS = OCTAVES * PER_OCTAVE + 1
"""Number of bins; compared with all pixels one by one, AUROC and AP change by less than 0.001."""

REGIONS = ("body", "all")
"""The pixels that count."""

MEASURES = {
    "pixel_ap": "AP",
    "pixel_auroc": "AUROC",
    "pro": "PRO",
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
}
"""Measures and their headings."""

CHUNK = 50
"""Resamples computed at once, which bounds the memory."""


def bins_of(scores: Float[np.ndarray, "*s"], low: float, high: float) -> Int[np.ndarray, "*s"]:
    """Return the bins of scores from `low` to `high`; a higher score is never in a lower bin."""
    least = np.float32(2.0**-OCTAVES)
    share = (np.asarray(scores, np.float64) - low) / ((high - low) or 1.0)
    shifted = np.clip(share, 0, 1).astype(np.float32) * (1 - least) + least
    # Between powers of two, the bits of a float rise evenly with it.
    bits = 23 - PER_OCTAVE.bit_length() + 1
    found = (shifted.view(np.int32) >> bits) - (least.view(np.int32) >> bits)
    return np.asarray(np.minimum(found, BINS - 1))


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of scores that a run of a method keeps."""

    pixels: Float[np.ndarray, "p 2 3 bins"]
    """By patient and region, per bin: normal pixels, lesion pixels, and the share of each
    lesion's pixels, summed over lesions."""
    images: Float[np.ndarray, "n 2"]
    """Highest score of every image, by region."""
    anomalous: Int[np.ndarray, " n"]
    patient: Int[np.ndarray, " n"]
    """Index of the image's patient."""

    @classmethod
    def of(cls, patients: Sequence[Iterable[Compared]], low: float, high: float) -> "Counts":
        """Count the slices of every patient. Raises `InputError` if a score is not finite."""
        pixels = np.zeros((len(patients), len(REGIONS), 3, BINS))
        images, anomalous, of_patient = [], [], []
        for index, slices in enumerate(patients):
            for one in slices:
                if not np.isfinite(one.scores).all():
                    raise InputError("scores-not-finite", "Every pixel must have a finite score.")
                for region, mask in enumerate((one.body, np.ones_like(one.body))):
                    _add(pixels[index, region], one, mask, bins_of(one.scores, low, high))
                inside = one.scores[one.body]
                images.append([inside.max() if inside.size else low, one.scores.max()])
                anomalous.append(int(one.lesion.any()))
                of_patient.append(index)
        return cls(
            pixels.astype(np.float32),
            np.array(images, np.float64),
            np.array(anomalous),
            np.array(of_patient),
        )

    def save(self, path: Path, **more: float) -> None:
        """Write all, and further numbers, to a file."""
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **vars(self), **more)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> tuple["Counts", dict[str, float]]:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in cls.__annotations__}
            return cls(**arrays), {name: float(file[name]) for name in file if name not in arrays}

    def resampled(
        self, weights: Float[np.ndarray, "r p"]
    ) -> dict[str, dict[str, Float[np.ndarray, " r"]]]:
        """Return every measure by region, for every weighting of the patients.

        NaN where a measure is undefined.
        """
        found: dict[str, dict[str, Float[np.ndarray, " r"]]] = {}
        for index, region in enumerate(REGIONS):
            pixels = self.pixels[:, index].astype(np.float64)
            pixels = pixels[..., pixels.any(axis=(0, 1))]
            auroc, ap, pro = _measures(pixels, weights)
            image_auroc, image_ap, _ = _measures(self._image_counts(index), weights)
            values = (ap, auroc, pro, image_auroc, image_ap)
            found[region] = dict(zip(MEASURES, values, strict=True))
        return found

    def _image_counts(self, region: int) -> Float[np.ndarray, "p 3 ranks"]:
        _, rank = np.unique(self.images[:, region], return_inverse=True)
        counts = np.zeros((len(self.pixels), 3, rank.max() + 1))
        np.add.at(counts, (self.patient, self.anomalous, rank), 1.0)
        return counts


def _add(
    counts: Float[np.ndarray, "3 bins"],
    one: Compared,
    mask: np.ndarray,
    bins: Int[np.ndarray, "r c"],
) -> None:
    counts[0] += np.bincount(bins[mask & ~one.lesion], minlength=BINS)
    lesion = mask & one.lesion
    if lesion.any():
        number, _ = ndimage.label(lesion, np.ones((3, 3)))
        numbers = number[lesion]
        shares = 1.0 / np.bincount(numbers)[numbers]
        counts[1] += np.bincount(bins[lesion], minlength=BINS)
        counts[2] += np.bincount(bins[lesion], weights=shares, minlength=BINS)


def patient_resamples(patients: int, resamples: int, seed: int = 0) -> Float[np.ndarray, "r p"]:
    """Return the weights of all patients in the whole set (first) and in every resample."""
    names = [f"{index:09d}" for index in range(patients)]
    drawn = patient_weights(names, resamples, seed)
    return np.stack([np.ones(patients), *drawn])


def _measures(
    counts: Float[np.ndarray, "p 3 b"], weights: Float[np.ndarray, "r p"]
) -> tuple[Float[np.ndarray, " r"], ...]:
    """Return AUROC, AP and PRO of weighted sums; ties count as half, or as one step."""
    parts: list[tuple[Float[np.ndarray, " r"], ...]] = []
    patients, kinds, bins = counts.shape
    flat = counts[:, :, ::-1].reshape(patients, -1)
    for start in range(0, len(weights), CHUNK):
        summed = (weights[start : start + CHUNK] @ flat).reshape(-1, kinds, bins)
        normal, lesion, overlap = np.moveaxis(summed, 1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            false, true = np.cumsum(normal, axis=1), np.cumsum(lesion, axis=1)
            total_false, total_true = false[:, -1:], true[:, -1:]
            auroc = (normal * (true - lesion / 2)).sum(axis=1) / (total_false * total_true)[:, 0]
            precision = np.where(true > 0, true / (true + false), 0)
            ap = (lesion * precision).sum(axis=1) / total_true[:, 0]
            curve = np.cumsum(overlap, axis=1)
            pro = _pro(false / total_false, curve / curve[:, -1:])
        undefined = ((total_false == 0) | (total_true == 0))[:, 0]
        parts.append(tuple(np.where(undefined, np.nan, one) for one in (auroc, ap, pro)))
    return tuple(np.concatenate(one) for one in zip(*parts, strict=True))


def _pro(
    rate: Float[np.ndarray, "r b"], overlap: Float[np.ndarray, "r b"]
) -> Float[np.ndarray, " r"]:
    """Return the normalized area below the curve up to a rate of `PRO_LIMIT`."""
    before = np.pad(rate, ((0, 0), (1, 0)))[:, :-1]
    lower = np.pad(overlap, ((0, 0), (1, 0)))[:, :-1]
    width = np.minimum(rate, PRO_LIMIT) - np.minimum(before, PRO_LIMIT)
    part = np.where(rate > before, width / (rate - before), 0)
    upper = lower + (overlap - lower) * part
    return np.asarray(((lower + upper) / 2 * width).sum(axis=1) / PRO_LIMIT)


Draws = Mapping[str, Mapping[str, Float[np.ndarray, " r"]]]
"""Measures by region: first that of all patients, then of every resample."""


def over_seeds(runs: Sequence[Draws], seed: int) -> Draws:
    """Average runs of several seeds; in every resample, of as many seeds drawn with replacement.

    The interval then holds the chance of the patients and that of the seeds.
    """
    found: dict[str, dict[str, Float[np.ndarray, " r"]]] = {}
    for region in REGIONS:
        found[region] = {}
        for measure in MEASURES:
            values = np.stack([run[region][measure] for run in runs])
            seeds, resamples = values.shape
            drawn = np.random.default_rng(seed).integers(seeds, size=(seeds, resamples))
            drawn[:, 0] = np.arange(seeds)
            found[region][measure] = np.take_along_axis(values, drawn, axis=0).mean(axis=0)
    return found


@dataclass(frozen=True)
class Estimate:
    """A measure or a difference, with its interval of 95 % over patients and seeds."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Float[np.ndarray, " r"]) -> "Estimate":
        """Make it of the value of all patients and those of the resamples."""
        defined = draws[1:][np.isfinite(draws[1:])]
        if len(defined) < len(draws) / 2 or len(defined) < 2:
            return cls(float(draws[0]), np.nan, np.nan)
        low, high = np.quantile(defined, [0.025, 0.975]).tolist()
        return cls(float(draws[0]), low, high)
