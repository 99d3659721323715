"""A model looks where it was trained to look: masks and regions from a table to a result."""

import csv
import dataclasses

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import InputError, ModelError
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.engine.specs import EvaluationSpec, Preset, Region
from SpatialARAnomalyLib.engine.volumes.files import write_nifti, write_nifti_labels
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.detection.detect import detect
from SpatialARAnomalyLib.service.detection.model_cache import load_model
from SpatialARAnomalyLib.service.evaluation.cases import find_cases
from SpatialARAnomalyLib.service.evaluation.evaluate import evaluate
from SpatialARAnomalyLib.service.events import EventReporter, NoticeEvent
from SpatialARAnomalyLib.service.scans import read_volume
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.training.train import train

SPEC = TrainSpec(
    size_px=112, preset=Preset.STANDARD, hidden_channels=8, epochs=1, device=Device.CPU
)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Four heads with their brains as masks, and a table of them."""
    folder = tmp_path_factory.mktemp("heads")
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["scan", "mask", "truth"])
        for number in range(4):
            head = normal_head(number, shape_kji=(6, 48, 48), spacing_mm=(4.8, 4.8, 20.0))
            write_nifti(folder / f"head {number}.nii.gz", head)
            mask = head.brain.astype(np.uint16)
            write_nifti_labels(folder / f"brain {number}.nii.gz", mask, head.ras_from_voxel)
            table.writerow([f"head {number}.nii.gz", f"brain {number}.nii.gz", ""])
    return folder


@pytest.fixture(scope="module")
def model(heads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIAL_AR_ANOMALY_HOME", str(heads / "settings"))
        train(heads / "table.csv", heads / "model", dataclasses.replace(SPEC, region=Region.MASK))
        yield load_model(heads / "model", "cpu")


def test_a_model_of_masks_counts_its_masks_alone(heads, model):
    assert model.card.region is Region.MASK
    volume = read_volume(heads / "head 0.nii.gz", mask=heads / "brain 0.nii.gz")
    found = detect(volume, model)
    assert np.array_equal(found.nll > found.outside_nll, volume.mask)
    assert all(volume.mask[one.peak_ijk[::-1]] for one in found.findings)


def test_a_model_of_masks_refuses_a_scan_without_one(heads, model):
    volume = read_volume(heads / "head 0.nii.gz")
    with pytest.raises(ModelError) as caught:
        detect(volume, model)
    assert caught.value.code == "model-mask"
    whole = detect(volume, model, allow_mismatch=True)
    assert np.count_nonzero(whole.nll > whole.outside_nll) > np.count_nonzero(
        read_volume(heads / "head 0.nii.gz", mask=heads / "brain 0.nii.gz").mask
    )


def test_cases_have_masks_too(heads, model):
    cases = find_cases(heads / "table.csv")
    evaluated = evaluate(cases, model, EvaluationSpec(resamples=0))
    brains = [read_volume(heads / "head 0.nii.gz", mask=one.mask).mask.sum() for one in cases]
    assert [case["nll"].body_voxels for case in evaluated.cases] == brains


def test_scans_without_masks_train_no_model_of_masks(heads, tmp_path):
    spec = dataclasses.replace(SPEC, region=Region.MASK)
    with pytest.raises(InputError) as caught:
        train([heads / f"head {number}.nii.gz" for number in range(4)], tmp_path / "model", spec)
    assert caught.value.code == "mask-missing"


def test_volumes_bring_their_masks(heads, model, tmp_path):
    volumes = [
        read_volume(heads / f"head {number}.nii.gz", mask=heads / f"brain {number}.nii.gz")
        for number in range(4)
    ]
    card = train(volumes, tmp_path / "model", dataclasses.replace(SPEC, region=Region.MASK))
    assert card.calibration == model.card.calibration


def test_a_scan_without_air_is_told_of_in_training_and_detection(tmp_path, monkeypatch):
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(tmp_path / "settings"))
    for number in range(3):
        head = normal_head(number, shape_kji=(6, 48, 48), spacing_mm=(4.8, 4.8, 20.0))
        cropped = Volume(head.voxels[1:5, 16:32, 16:32] + 300, head.ras_from_voxel)
        write_nifti(tmp_path / f"{number}.nii.gz", cropped)
    events = []
    report = EventReporter(events.append)
    train([tmp_path / f"{n}.nii.gz" for n in range(3)], tmp_path / "model", SPEC, report)
    (told,) = [one.text for one in events if isinstance(one, NoticeEvent) and one.code == "no-air"]
    assert told.startswith("0.nii.gz and 2 more: ")
    assert read_card(tmp_path / "model").region is Region.BODY
    events.clear()
    detect(read_volume(tmp_path / "0.nii.gz"), load_model(tmp_path / "model", "cpu"), report=report)
    assert "no-air" in [one.code for one in events if isinstance(one, NoticeEvent)]
