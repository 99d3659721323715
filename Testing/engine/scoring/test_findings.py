"""Findings are those of a flood fill by hand, measured in RAS millimeters."""

import tracemalloc
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from engine.grids import find
from scipy import ndimage
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.cards.finding_counts import FindingCounts
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.scoring import findings as module
from SpatialARAnomalyLib.engine.scoring.findings import find_in_box, find_strengths
from SpatialARAnomalyLib.engine.volumes.geometry import voxel_ml

CALIBRATION = Calibration(
    levels=(0.0, 0.5, 1.0),
    nll=(-3.0, 0.0, 3.0),
    token_nll=(-4.0, 0.5, 4.0),
    tokens=1000,
    volumes=2,
)

OBLIQUE = np.array(
    [
        [-1.2, 0.3, 0.7, 31.0],
        [0.4, 1.1, -0.9, -17.0],
        [0.1, 0.5, 2.9, 250.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""Sheared, anisotropic and left-handed."""


def millimeters(spacing: float) -> np.ndarray:
    return np.diag([spacing, spacing, spacing, 1.0])


def volume(shape, peaks) -> np.ndarray:
    """Zero except for the values given by voxel (k, j, i)."""
    nll = np.zeros(shape, dtype=np.float32)
    for place, value in peaks.items():
        nll[place] = value
    return nll


def flood_fill(nll, threshold):
    """Sets of voxels (k, j, i) that reach the threshold and touch, in raster order."""
    left = [tuple(place) for place in np.argwhere(nll >= threshold)]
    regions = []
    while left:
        region, front = set(), [left[0]]
        while front:
            place = front.pop()
            region.add(place)
            for step in product((-1, 0, 1), repeat=3):
                neighbor = tuple(np.add(place, step).tolist())
                if neighbor in left and neighbor not in region and neighbor not in front:
                    front.append(neighbor)
        left = [place for place in left if place not in region]
        regions.append(sorted(region))
    return regions


def ras(kji):
    k, j, i = kji
    return tuple((OBLIQUE @ [i, j, k, 1.0])[:3])


@pytest.mark.parametrize("seed", range(12))
def test_findings_are_those_of_a_flood_fill(seed):
    assert np.linalg.det(OBLIQUE[:3, :3]) < 0
    random = np.random.RandomState(seed)
    nll = random.normal(size=random.randint(3, 9, size=3)).astype(np.float32)
    threshold, min_voxels = random.choice([1.0, 1.3, 1.6]), random.randint(1, 5)
    voxel_ml = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000

    findings, labels = find(nll, OBLIQUE, CALIBRATION, threshold, min_voxels * voxel_ml)

    expected = [region for region in flood_fill(nll, threshold) if len(region) >= min_voxels]
    expected.sort(key=lambda region: -sum(float(nll[place]) - threshold for place in region))
    assert len(findings) == len(expected)
    hand_made = np.zeros(nll.shape, dtype=np.uint16)
    for rank, (finding, region) in enumerate(zip(findings, expected, strict=True), start=1):
        values = [float(nll[place]) for place in region]
        assert (finding.rank, finding.voxels) == (rank, len(region))
        assert finding.volume_ml == pytest.approx(len(region) * voxel_ml, rel=1e-12)
        assert finding.peak_nll == max(values)
        assert finding.mean_nll == pytest.approx(np.mean(values), rel=1e-12)
        assert finding.centroid_ras == pytest.approx(
            np.mean([ras(place) for place in region], axis=0), rel=1e-12
        )
        peak = region[int(np.argmax(values))]
        assert finding.peak_ras == pytest.approx(ras(peak), rel=1e-12)
        assert finding.strength == pytest.approx(
            (np.sum(values) - threshold * len(region)) * voxel_ml
        )
        assert finding.peak_p_value == CALIBRATION.p_value(max(values))
        for place in region:
            hand_made[place] = rank
    assert np.array_equal(labels, hand_made)


def test_the_seeds_find_something():
    counts = []
    for seed in range(12):
        random = np.random.RandomState(seed)
        nll = random.normal(size=random.randint(3, 9, size=3))
        counts.append(len(flood_fill(nll, 1.6)))
    assert max(counts) >= 5


def test_voxels_that_share_only_a_corner_are_one_finding():
    nll = volume((3, 3, 3), {(0, 0, 0): 2.0, (1, 1, 1): 3.0, (2, 2, 2): 4.0})
    findings, labels = find(nll, millimeters(10.0), CALIBRATION, 1.0, 0.0)
    assert [finding.voxels for finding in findings] == [3]
    assert np.array_equal(labels, nll > 0)
    assert findings[0].centroid_ras == (10.0, 10.0, 10.0)
    assert findings[0].peak_ras == (20.0, 20.0, 20.0)


def test_a_voxel_at_the_threshold_belongs_to_the_finding():
    nll = volume((1, 1, 5), {(0, 0, 1): 1.5, (0, 0, 2): 1.25})
    findings, _ = find(nll, millimeters(10.0), CALIBRATION, 1.25, 0.0)
    assert [finding.voxels for finding in findings] == [2]
    assert findings[0].mean_nll == 1.375


def test_findings_of_equal_strength_rank_by_place():
    nll = volume((5, 5, 5), {(4, 0, 0): 2.0, (0, 4, 4): 2.0, (2, 2, 0): 2.0, (2, 2, 4): 2.5})
    _, labels = find(nll, millimeters(1.0), CALIBRATION, 1.0, 0.0)
    found = [labels[place] for place in ((2, 2, 4), (0, 4, 4), (2, 2, 0), (4, 0, 0))]
    assert found == [1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_a_region_of_exactly_the_least_volume_is_kept(seed):
    """On any rotated grid: the rounding of the rotation does not matter."""
    q, _ = np.linalg.qr(np.random.RandomState(seed).normal(size=(3, 3)))
    ras_from_voxel = np.eye(4)
    ras_from_voxel[:3, :3] = q * 0.7
    nll = np.zeros((3, 10, 10), dtype=np.float32)
    nll[0] = 2.0
    nll[2, :, :9] = 3.0
    findings, labels = find(nll, ras_from_voxel, CALIBRATION, 1.0, 100 * 0.343 / 1000)
    assert [finding.voxels for finding in findings] == [100]
    assert np.array_equal(labels, nll == 2.0)
    findings, _ = find(nll, ras_from_voxel, CALIBRATION, 1.0, 90 * 0.343 / 1000)
    assert [finding.voxels for finding in findings] == [90, 100]
    findings, _ = find(nll, ras_from_voxel, CALIBRATION, 1.0, 101 * 0.343 / 1000)
    assert findings == []


def test_nothing_reaches_the_threshold():
    nll = np.full((2, 3, 4), 0.5, dtype=np.float32)
    findings, labels = find(nll, OBLIQUE, CALIBRATION, 0.75, 0.0)
    assert findings == []
    assert labels.shape == (2, 3, 4)
    assert not labels.any()


def test_everything_reaches_the_threshold():
    nll = np.full((2, 3, 4), 0.5, dtype=np.float32)
    (finding,), labels = find(nll, millimeters(2.0), CALIBRATION, 0.25, 0.0)
    assert (labels == 1).all()
    assert finding.voxels == 24
    assert finding.volume_ml == pytest.approx(24 * 8 / 1000)
    assert finding.centroid_ras == (3.0, 2.0, 1.0)
    assert finding.peak_ras == (0.0, 0.0, 0.0)
    assert finding.mean_nll == finding.peak_nll == 0.5


def test_regions_are_counted_without_a_copy_of_the_volume():
    nll = np.random.RandomState(0).normal(size=(40, 64, 64)).astype(np.float32)
    find(nll, OBLIQUE, CALIBRATION, 3.0, 0.0)
    tracemalloc.start()
    findings, labels = find(nll, OBLIQUE, CALIBRATION, 3.0, 0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(finding.voxels for finding in findings) == np.count_nonzero(labels) > 100
    assert peak < 12 * nll.size  # regions, labels, a mask; 8 bytes each more in int64


def by_labeling(nll, ras_from_voxel, threshold, min_volume_ml):
    """The label map and the voxels of every finding, by labeling the whole grid."""
    regions, count = ndimage.label(nll >= threshold, structure=np.ones((3, 3, 3)))
    ml = abs(np.linalg.det(ras_from_voxel[:3, :3])) / 1000
    kept = []
    for region in range(1, count + 1):
        inside = regions == region
        if np.count_nonzero(inside) * ml >= min_volume_ml * (1 - 1e-6):
            kept.append((-float((nll[inside].astype(float) - threshold).sum()) * ml, region))
    labels = np.zeros(nll.shape, dtype=np.uint16)
    for rank, (_, region) in enumerate(sorted(kept), start=1):
        labels[regions == region] = rank
    return labels, [np.argwhere(labels == rank) for rank in range(1, len(kept) + 1)]


GRIDS = [(9, 11, 13), (1, 1, 40), (1, 30, 1), (25, 1, 1), (2, 17, 3), (6, 1, 19), (12, 12, 12)]


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("share", [0.02, 0.15, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("kind", ["noise", "smooth", "steps", "fortran"])
def test_findings_are_those_of_labeling_the_whole_grid(shape, share, kind):
    """Whatever the shape, the share above, the ties, and the order of the axes in memory."""
    random = np.random.RandomState(sum(shape) + int(100 * share))
    nll = random.normal(size=shape)
    if kind == "smooth":
        nll = ndimage.gaussian_filter(nll, 1.5)
    if kind == "steps":
        nll = np.round(2 * nll)
    nll = nll.astype(np.float32)
    if kind == "fortran":
        nll = np.ascontiguousarray(nll.T).T
        assert nll.flags.f_contiguous
    threshold = float(np.quantile(nll, 1 - share))
    min_volume_ml = random.choice([0.0, 3.0]) * abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000

    findings, labels = find(nll, OBLIQUE, CALIBRATION, threshold, min_volume_ml)

    expected, regions = by_labeling(nll, OBLIQUE, threshold, min_volume_ml)
    assert np.array_equal(labels, expected)
    assert len(findings) == len(regions)
    for finding, places in zip(findings, regions, strict=True):
        values = nll[tuple(places.T)]
        assert finding.voxels == len(places)
        assert finding.peak_nll == values.max()
        assert finding.mean_nll == pytest.approx(values.astype(float).mean(), rel=1e-12, abs=1e-12)
        assert finding.peak_ijk == tuple(places[values.argmax()][::-1])
        assert finding.peak_ras == pytest.approx(ras(places[values.argmax()]), rel=1e-12)
        assert finding.centroid_ras == pytest.approx(ras(places.mean(axis=0)), rel=1e-12)


def test_the_box_holds_the_findings_and_no_more():
    nll = volume((9, 9, 9), {(2, 3, 4): 2.0, (2, 3, 5): 3.0, (5, 7, 1): 2.5, (8, 8, 8): 1.5})
    findings, box = find_in_box(nll, millimeters(10.0), CALIBRATION, 2.0, 0.0)
    assert box.start_kji == (2, 3, 1)
    assert box.labels.shape == (4, 5, 5)
    _, labels = find(nll, millimeters(10.0), CALIBRATION, 2.0, 0.0)
    assert np.array_equal(labels[2:6, 3:8, 1:6], box.labels)
    assert np.array_equal(labels, box.on_grid(nll.shape))
    assert [finding.peak_ijk for finding in findings] == [(5, 3, 2), (1, 7, 5)]
    assert find_in_box(nll, millimeters(10.0), CALIBRATION, 9.0, 0.0) == ([], None)


def test_a_memory_mapped_volume_is_only_read(tmp_path):
    nll = np.random.RandomState(0).normal(size=(5, 6, 7)).astype(np.float32)
    np.save(tmp_path / "nll.npy", nll)
    mapped = np.load(tmp_path / "nll.npy", mmap_mode="r")
    assert (
        find(mapped, OBLIQUE, CALIBRATION, 1.0, 0.0)[0]
        == find(nll, OBLIQUE, CALIBRATION, 1.0, 0.0)[0]
    )


def test_more_findings_than_labels_are_an_error(monkeypatch):
    monkeypatch.setattr(module, "MAX_FINDINGS", 2)
    nll = volume((1, 1, 7), {(0, 0, 0): 2.0, (0, 0, 3): 2.0, (0, 0, 6): 2.0})
    with pytest.raises(InputError) as caught:
        find(nll, millimeters(1.0), CALIBRATION, 1.0, 0.0)
    assert caught.value.message == "Expected at most 2 findings; found 3."
    assert len(find(nll, millimeters(1.0), CALIBRATION, 2.5, 0.0)[0]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_strengths_are_those_of_the_findings_of_any_volume(seed):
    nll = ndimage.gaussian_filter(np.random.RandomState(seed).normal(size=(9, 14, 12)), 1.0)
    nll = nll.astype(np.float32)
    findings, _ = find(nll, OBLIQUE, CALIBRATION, 0.2, 0.0)
    strengths = find_strengths(nll, voxel_ml(OBLIQUE), 0.2)
    assert len(findings) > 3
    assert sorted(strengths, reverse=True) == pytest.approx([one.strength for one in findings])
    assert find_strengths(nll, 1.0, 9.0).size == 0


def test_strength_does_not_depend_on_the_voxel_size():
    nll = volume((5, 5, 5), {(1, 1, 1): 2.0, (1, 1, 2): 3.0, (4, 4, 4): 2.25})
    fine = nll.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    coarse, _ = find(nll, millimeters(2.0), CALIBRATION, 1.5, 0.0)
    refined, _ = find(fine, millimeters(1.0), CALIBRATION, 1.5, 0.0)
    assert [one.strength for one in coarse] == pytest.approx([0.016, 0.006])
    assert [one.strength for one in refined] == pytest.approx([0.016, 0.006])


def test_a_large_finding_ranks_before_a_higher_peak():
    nll = volume((5, 9, 9), {(0, 0, 0): 6.0})
    nll[2:5, 4:8, 4:8] = 3.0
    counts = FindingCounts.of((0.1,), [[[0.02, 0.001]], [[0.03]]])
    calibration = replace(CALIBRATION, findings=counts)
    findings, _ = find(nll, millimeters(2.0), calibration, 1.0, 0.0)
    assert [one.peak_nll for one in findings] == [3.0, 6.0]
    for one in findings:
        assert one.per_normal_scan == counts.expected(one.strength, calibration.rate(1.0))
    assert findings[0].per_normal_scan < findings[1].per_normal_scan
    assert find(nll, millimeters(2.0), CALIBRATION, 1.0, 0.0)[0][0].per_normal_scan is None
