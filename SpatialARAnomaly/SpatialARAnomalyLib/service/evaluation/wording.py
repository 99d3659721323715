"""Names of the scores and metrics of an evaluation, and their meaning in plain words.

Needs no package: the panel reads it before any is installed.
"""

SCORE_WORDS = {
    "nll": "model (NLL)",
    "intensity": "intensity",
    "intensity_distance": "distance from the median intensity",
}
"""Names of the kinds of scores: the model's, and the baselines, which need no model."""

METRIC_WORDS: dict[str, tuple[str, str]] = {
    "voxel_auroc": (
        "voxel AUROC",
        "How often a lesion voxel has a higher score than a voxel of normal body. "
        "0.5 is chance, 1 is perfect. High for small lesions even where most findings are false.",
    ),
    "average_precision": (
        "average precision",
        "Share of the voxels above a threshold that are lesion, averaged over thresholds. "
        "By chance it is the share of lesion voxels; 1 is perfect.",
    ),
    "pro": (
        "PRO (up to 0.3)",
        "Share of each lesion that is covered, with the same weight for small and large ones, "
        "averaged over false-positive rates up to 0.3. 0.15 is chance, 1 is perfect.",
    ),
    "dice": (
        "Dice at the threshold",
        "Overlap of all voxels above the calibrated threshold with all lesions: 0 none, 1 equal.",
    ),
    "dice_per_case": (
        "Dice, mean per scan",
        "Dice at the threshold of each scan with a lesion, averaged over those scans.",
    ),
    "best_dice": (
        "best Dice",
        "Dice at the threshold that is best for these scans. That threshold is chosen with the "
        "truth: an upper bound.",
    ),
    "best_dice_threshold": ("threshold of the best Dice", "The threshold of the best Dice."),
    "false_positive_rate": (
        "false-positive rate",
        "Share of the body's voxels above the calibrated threshold in scans without a lesion. "
        "It should be near the rate that was set.",
    ),
    "case_auroc": (
        "scan AUROC",
        "How often a scan with a lesion has a higher score than one without; a scan's score is "
        "the mean of its highest hundredth of body voxels, less their median. 0.5 is chance.",
    ),
    "lesions_found": (
        "lesions found",
        "Share of all lesions that a finding overlaps, at the calibrated threshold and smallest "
        "volume.",
    ),
    "lesion_first": (
        "lesion ranked first",
        "Share of the scans with a found lesion in which the first finding is on a lesion.",
    ),
    "false_findings_per_scan": (
        "false findings a scan",
        "Findings per scan that overlap no lesion, at the calibrated threshold and smallest "
        "volume.",
    ),
}
"""Name in a table and meaning of every metric, in the order of the engine's `METRICS`."""
