"""Results without a detection: an NLL volume of known blobs, added by the panel's code."""

from typing import Any

import numpy as np

SHAPE_KJI = (8, 36, 40)

AFFINE = np.array([[2.0, 0, 0, -40], [0, 2.0, 0, -35], [0, 0, 4.0, -10], [0, 0, 0, 1]])

PEAKS_KJI = ((3, 7, 7), (2, 27, 28), (4, 8, 17))
"""Peaks of the blobs, NLL 4.5, 3.8 and 3.5; below 1.5 the first and the last are connected."""

CASE_SCORE = 2.0
"""Case score of the scan; those of the three normal scans are 1.0, 1.2 and 1.5."""


def blobs() -> np.ndarray:
    """Return the NLL of two blobs with a saddle between them, and of a separate blob."""
    nll = np.full(SHAPE_KJI, 0.5, np.float32)
    nll[2:6, 5:11, 5:11], nll[2:6, 6:10, 15:20], nll[3, 8, 11:15] = 2.5, 2.4, 1.5
    nll[1:4, 25:30, 25:30] = 2.6
    for place, peak in zip(PEAKS_KJI, (4.5, 3.8, 3.5), strict=True):
        nll[place] = peak
    return nll


def calibration() -> Any:
    """Return a calibration in which a share of 10^-n normal voxels has an NLL above n, up to 4."""
    from SpatialARAnomalyLib.engine.cards.calibration import Calibration
    from SpatialARAnomalyLib.engine.cards.finding_counts import FindingCounts

    nll = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    return Calibration(
        levels=(0.0, 0.9, 0.99, 0.999, 0.9999, 1.0),
        nll=nll, token_nll=nll, tokens=10_000, volumes=3,
        rates=(0.1, 0.01, 0.001),
        volume_shares=((0.1, 0.02, 0.002), (0.1, 0.005, 0.0005), (0.1, 0.005, 0.0005)),
        case_scores=(1.0, 1.2, 1.5),
        findings=FindingCounts.of((0.1, 0.001), [[[0.2, 0.1], [0.05]], [[0.4], []], [[], []]]),
    )  # fmt: skip


def add_result(
    affine: np.ndarray = AFFINE,
    rate: float = 0.01,
    transform: Any = None,
    name: str = "Scan",
    cautions: tuple[str, ...] = (),
) -> Any:
    """Add a scan and its result to the scene, as a detection does."""
    from slicerapp.heads import add_volume
    from SpatialARAnomalyLib.engine.scoring.findings import find_in_box
    from SpatialARAnomalyLib.service.worker.detection import finding_values
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import newImage
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import addResult

    nll = blobs()
    scan = add_volume((nll * 100).astype(np.int16), affine, name)
    if transform is not None:
        scan.SetAndObserveTransformNodeID(transform.GetID())
    image, voxels = newImage(nll.shape)
    voxels[:] = nll
    threshold = calibration().threshold(rate)
    findings, box = find_in_box(nll, np.asarray(affine), calibration(), threshold, 0.0)
    event = {
        "calibration": calibration().to_dict(), "case_score": CASE_SCORE,
        "cautions": [{"code": code, "text": f"Text of {code}."} for code in cautions],
        "model": {"name": "blobs"},
        "false_positive_rate": rate, "findings": [finding_values(one) for one in findings],
        "labels_start_kji": None if box is None else list(box.start_kji),
    }  # fmt: skip
    return addResult(scan, event, image, None if box is None else box.labels, 0.0, False)
