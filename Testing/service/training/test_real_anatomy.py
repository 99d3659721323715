"""Training and detection on real input: a cohort of the average head, and a DICOM series."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom.data
import pytest
import SimpleITK as sitk
from Data.template_cohort import template_head, template_head_with_lesion
from service.small_site import run
from SpatialARAnomalyLib.engine.volumes.dicom import read_series
from SpatialARAnomalyLib.engine.volumes.dicom_series import list_series
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file, write_nifti, write_nrrd
from SpatialARAnomalyLib.engine.volumes.volume import Volume

NORMALS, SPACING_MM = 12, 4.0
CT_SERIES = Path(pydicom.data.__file__).parent / "test_files/dicomdirtests/98892001/CT5N"


def every_other_slice(volume: Volume) -> Volume:
    """Slices of double thickness, to be quick."""
    return Volume(
        np.ascontiguousarray(volume.voxels[::2]),
        volume.ras_from_voxel @ np.diag([1.0, 1.0, 2.0, 1.0]),
    )


def voxels_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    normals = []
    for seed in range(NORMALS):
        normals.append(folder / f"normal_{seed:02d}.nii.gz")
        write_nifti(normals[-1], every_other_slice(template_head(seed, spacing_mm=SPACING_MM)))
    result = run(
        "train", *normals, "--out", folder / "model", "--size-px", 224, "--epochs", 30,
        "--batch-size", 16, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.mark.slow
def test_the_card_describes_the_training(cohort):
    result = run("models", "show", cohort / "model", "--json")
    card = json.loads(result.stdout)
    normals = card["normals"]
    assert len(normals["training_sha256"]) == 10
    assert len(normals["held_out_sha256"]) == 2
    assert card["modality"] == "MR"
    assert normals["slice_spacing_mm"] == [8.0, 8.0]
    values = [figures["held_out_nll"] for figures in card["curve"]]
    # Nats per channel; the position, known from the first epoch on, explains most of it.
    assert values[-1] < values[0] - 0.04
    content = (cohort / "model.safetensors").read_bytes()
    assert b"normal_" not in content
    assert str(cohort).encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1001, 1003, 1005])
def test_a_bright_mass_in_a_real_head_is_found(seed, cohort, tmp_path):
    head, lesion = template_head_with_lesion(
        seed, spacing_mm=SPACING_MM, radius_mm=14.0, contrast=0.6
    )
    scan = tmp_path / "head.nii.gz"
    write_nifti(scan, every_other_slice(head))
    lesion = lesion[::2]
    result = run("detect", scan, "--model", cohort / "model", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr

    nll = voxels_of(tmp_path / "out" / "head_nll.nrrd")
    brain = head.voxels[::2] > 0
    inside, outside = nll[lesion], nll[brain & ~lesion]
    # The area under the ROC curve, by counting pairs.
    order = np.searchsorted(np.sort(outside), inside) / outside.size
    assert order.mean() > 0.97
    labels = voxels_of(tmp_path / "out" / "head_labels.nii.gz")
    # How much of the mass is marked, and at which rank, depends on a threshold of two held-out
    # heads.
    marked = labels[lesion & (labels > 0)]
    assert marked.size
    rank = int(np.bincount(marked).argmax())
    dice = [
        2
        * np.count_nonzero(lesion & (nll >= threshold))
        / (np.count_nonzero(nll >= threshold) + lesion.sum())
        for threshold in np.quantile(nll[brain], np.linspace(0.95, 0.999, 50))
    ]
    assert max(dice) > 0.2
    with (tmp_path / "out" / "head_findings.csv").open() as file:
        row = list(csv.DictReader(file))[rank - 1]
    place = [float(row[f"centroid_{axis}_mm"]) for axis in "ras"]
    k, j, i = (axis.mean() for axis in np.nonzero(lesion))
    true_place = read_volume_file(scan).ras_from_voxel @ [i, j, k, 1.0]
    assert np.linalg.norm(place - true_place[:3]) < 16.0


@pytest.mark.slow
def test_fresh_normal_heads_keep_the_rate_asked_for(cohort, tmp_path):
    """Within a factor of two on the mean; the threshold is of two held-out heads only."""
    rates = {0.1: [], 0.001: []}
    for seed in (77, 78, 79):
        scan = tmp_path / f"normal_{seed}.nii.gz"
        write_nifti(scan, every_other_slice(template_head(seed, spacing_mm=SPACING_MM)))
        for asked, reached in rates.items():
            out = tmp_path / f"{seed}_{asked}"
            result = run(
                "detect", scan, "--model", cohort / "model", "--out", out,
                "--false-positive-rate", asked,
            )  # fmt: skip
            assert result.exit_code == 0, result.stderr
            manifest = json.loads((out / "run.json").read_text())
            nll = voxels_of(out / f"normal_{seed}_nll.nrrd")
            body = nll > manifest["outside_nll"]
            assert body.mean() > 0.2
            reached.append(np.mean(nll[body] > manifest["threshold_nll"]))
    assert 0.05 < np.mean(rates[0.1]) < 0.2
    assert max(rates[0.001]) < 0.01


@pytest.fixture(scope="module")
def ct_model(tmp_path_factory):
    """A model of five scans: the real series with different noise."""
    folder = tmp_path_factory.mktemp("ct")
    volume = read_series(list_series(CT_SERIES)[0])
    random = np.random.RandomState(0)
    normals = []
    for number in range(5):
        noise = random.normal(0, 8, size=volume.voxels.shape)
        normals.append(folder / f"normal_{number}.nrrd")
        write_nrrd(normals[-1], (volume.voxels + noise).astype(np.float32), volume.ras_from_voxel)
    result = run(
        "train", *normals, "--out", folder / "model", "--size-px", 64, "--epochs", 3,
        "--batch-size", 4, "--window-hu", -200, 200, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return folder / "model"


def test_a_real_dicom_series(ct_model, tmp_path):
    result = run("detect", CT_SERIES, "--model", ct_model, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    volume = read_series(list_series(CT_SERIES)[0])
    for name in ("CT5N_nll.nrrd", "CT5N_anomalies.seg.nrrd"):
        image = sitk.ReadImage(str(tmp_path / name))
        # Image Position (Patient) of the lowest of the five slices, as in the files.
        np.testing.assert_allclose(image.GetOrigin(), (-72.199997, -143.0, -1.2375), atol=1e-6)
        np.testing.assert_allclose(image.GetSpacing(), (0.488281, 0.488281, 2.5), atol=1e-6)
        assert image.GetSize() == (16, 16, 5)
    nifti = nib.load(tmp_path / "CT5N_labels.nii.gz")
    np.testing.assert_allclose(nifti.affine, volume.ras_from_voxel, atol=1e-5)
    nll = voxels_of(tmp_path / "CT5N_nll.nrrd")
    assert np.isfinite(nll).all()
    assert nll.std() > 0.05


def test_one_series_of_a_study(ct_model, tmp_path):
    """Choosing by number: the study also holds a scout, which does not fit the model."""
    study = CT_SERIES.parent
    out = tmp_path / "out"
    result = run("detect", study, "--series", 5, "--model", ct_model, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert (out / "98892001_series5_nll.nrrd").exists()
    result = run("detect", study, "--series", 99, "--model", ct_model, "--out", tmp_path / "no")
    assert result.exit_code == 2
    assert "No series has the number or UID 99" in result.stderr
