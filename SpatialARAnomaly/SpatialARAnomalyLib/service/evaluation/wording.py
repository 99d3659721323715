"""What the figures of an evaluation are called, and what they say in plain words.

Readable without what computes them.
"""

SCORE_WORDS = {
    "nll": "model (NLL)",
    "intensity": "intensity",
    "intensity_distance": "distance from the median intensity",
}
"""The scores that are held against the truth: the model's, and what needs no model."""

METRIC_WORDS: dict[str, tuple[str, str]] = {
    "voxel_auroc": (
        "voxel AUROC",
        "How often a lesion voxel has a higher score than a voxel of normal body. "
        "0.5 is chance, 1 is perfect. High for small lesions even where most findings are false.",
    ),
    "average_precision": (
        "average precision",
        "How much of what lies above a threshold is lesion, averaged over thresholds. "
        "By chance it is the share of lesion voxels; 1 is perfect.",
    ),
    "pro": (
        "PRO (up to 0.3)",
        "How much of every lesion is covered, small ones counting as much as large ones, averaged "
        "over false-positive rates up to 0.3. By chance 0.15; 1 is perfect.",
    ),
    "dice": (
        "Dice at the threshold",
        "Overlap of all voxels above the calibrated threshold with all lesions: 0 none, 1 equal.",
    ),
    "dice_per_case": (
        "Dice, mean per scan",
        "The same for every scan with a lesion, averaged over those scans.",
    ),
    "best_dice": (
        "best Dice",
        "The same at the one threshold that suits these very scans best. Nobody knows it "
        "beforehand: a bound, not what to expect.",
    ),
    "best_dice_threshold": ("its threshold", "The score at which that best Dice is reached."),
    "false_positive_rate": (
        "false-positive rate",
        "Share of the body's voxels above the calibrated threshold in scans without a lesion. "
        "It should be near the rate that was asked for.",
    ),
    "case_auroc": (
        "scan AUROC",
        "How often a scan with a lesion has a higher score than one without; a scan's score is "
        "the mean of its highest hundredth of body voxels. 0.5 is chance.",
    ),
    "lesions_found": (
        "lesions found",
        "Share of all lesions that a finding overlaps, at the calibrated threshold and least "
        "volume.",
    ),
    "false_findings_per_scan": (
        "false findings a scan",
        "Findings that overlap no lesion, a scan, at the calibrated threshold and least volume.",
    ),
}
"""Every metric's name in a table, and what it says, in the order of the engine's `METRICS`."""


def counted(number: int, what: str) -> str:
    """`1 scan`, `2 scans`."""
    return f"{number} {what}" + ("" if number == 1 else "s")
