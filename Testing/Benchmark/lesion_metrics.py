"""Compare NLL volumes with the plain intensity on lesions with a truth: prints a table.

    python Testing/Benchmark/lesion_metrics.py COHORT RESULTS

COHORT holds lesion_NN.nii.gz and lesion_NN_truth.nii.gz from Testing/Data/template_cohort.py,
RESULTS a folder lesion_NN of `detect` for each. Columns, inside the brain (voxels above zero):
area under the ROC curve and average precision of the NLL, of the intensity, and of its distance
from the brain's median; rank and Dice of the finding that covers most of the lesion.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from sklearn.metrics import average_precision_score, roc_auc_score


def voxels_of(path: Path) -> np.ndarray:
    """Read the voxels [k, j, i] of a volume file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def best_finding(labels: np.ndarray, lesion: np.ndarray) -> tuple[str, float]:
    """Return rank and Dice of the finding that covers most of the lesion."""
    ranks = np.bincount(labels[lesion].astype(int), minlength=1)
    ranks[0] = 0
    if not ranks.any():
        return "none", 0.0
    rank = int(ranks.argmax())
    found = labels == rank
    both = np.count_nonzero(found & lesion)
    return str(rank), 2 * both / (np.count_nonzero(found) + np.count_nonzero(lesion))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="NLL against intensity on lesions with a truth.")
    parser.add_argument("cohort", type=Path)
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    print("| scan | lesion mL | NLL | intensity | far from median | finding | Dice | findings |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for truth in sorted(arguments.cohort.glob("lesion_*_truth.nii.gz")):
        name = truth.name.removesuffix("_truth.nii.gz")
        scan = voxels_of(arguments.cohort / f"{name}.nii.gz").astype(np.float32)
        brain = scan > 0
        lesion = voxels_of(truth) > 0
        folder = arguments.results / name
        scores = {
            "nll": voxels_of(folder / f"{name}_nll.nrrd"),
            "intensity": scan,
            "far": np.abs(scan - np.median(scan[brain])),
        }
        cells = []
        for score in scores.values():
            area = roc_auc_score(lesion[brain], score[brain])
            precision = average_precision_score(lesion[brain], score[brain])
            cells.append(f"{area:.3f} / {precision:.3f}")
        labels = voxels_of(folder / f"{name}_labels.nii.gz")
        rank, dice = best_finding(labels, lesion & brain)
        kind = "bright" if scan[lesion].mean() > np.median(scan[brain]) else "dark"
        size = sitk.ReadImage(str(truth)).GetSpacing()
        volume_ml = np.count_nonzero(lesion) * float(np.prod(size)) / 1000
        print(
            f"| {name} ({kind}) | {volume_ml:.1f} | {' | '.join(cells)} | {rank} | {dice:.2f} "
            f"| {int(labels.max())} |"
        )


if __name__ == "__main__":
    main()
