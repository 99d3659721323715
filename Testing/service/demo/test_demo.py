"""The demo as its user sees it: the lesion is the first finding, all is kept and named."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from service.small_site import run, tree
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.demo import demo as demo_job
from SpatialARAnomalyLib.service.demo import sample_scans
from SpatialARAnomalyLib.service.outputs import write_marker


@pytest.fixture
def demo(demo_run):
    events = (demo_run.parent / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return demo_run, [json.loads(line) for line in events]


@pytest.mark.timeout(900)
def test_the_lesion_is_the_first_finding(demo):
    """How much of it is found depends on a short training; that it comes first does not."""
    out, events = demo
    result = events[-1]
    assert result["event"] == "result"
    labels = np.asarray(nib.load(out / "results" / "lesion_labels.nii.gz").dataobj)
    truth = np.asarray(nib.load(out / "volumes" / "lesion_truth.nii.gz").dataobj) > 0
    first = labels == 1
    dice = 2 * np.count_nonzero(first & truth) / (np.count_nonzero(first) + np.count_nonzero(truth))
    assert dice == pytest.approx(result["dice"])
    # Its highest voxel and most of it lie in the lesion, on every CPU.
    nll = sitk.GetArrayFromImage(sitk.ReadImage(out / "results" / "lesion_nll.nrrd")).T
    assert truth[np.unravel_index(nll.argmax(), nll.shape)]
    assert np.count_nonzero(first & truth) > 0.5 * np.count_nonzero(first)
    peaks = [finding["peak_nll"] for finding in result["findings"]]
    assert peaks == sorted(peaks, reverse=True)


def test_volumes_model_and_results_are_kept(demo):
    out, _ = demo
    kept = tree(out)
    assert sum(name.startswith("volumes/normal_") for name in kept) == 10
    assert {"volumes/lesion.nii.gz", "volumes/lesion_truth.nii.gz"} <= set(kept)
    assert "model.safetensors" in kept
    assert sum(name.startswith("results/") for name in kept) == 6
    assert not any("training" in name or "partial" in name for name in kept)


def test_a_folder_with_something_in_it_is_left_alone(demo):
    out, _ = demo
    before = tree(out)
    result = run("demo", "--out", out)
    assert result.exit_code == 2
    assert "must be new or empty" in result.stderr
    assert tree(out) == before


def fill(out) -> None:
    for name in ("volumes/scan.nii", "model.safetensors", "results/paper.txt", "notes.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("years of work")


@pytest.mark.parametrize("marker", [None, "{}", '{"what": "somebody\'s demo"}'])
def test_what_is_no_demo_is_never_replaced(tmp_path, marker):
    fill(tmp_path)
    if marker is not None:
        (tmp_path / "demo.json").write_text(marker)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="Only an earlier demo is replaced") as caught:
        demo_job.run_demo(tmp_path, 1, Device.CPU, True, SilentReporter())
    assert caught.value.code == "output-not-a-demo"
    assert tree(tmp_path) == before


def test_an_earlier_demo_is_replaced_and_what_else_is_there_kept(tmp_path, monkeypatch):
    class BegunError(Exception):
        pass

    def begin(*_: int) -> None:
        raise BegunError

    monkeypatch.setattr(sample_scans, "training_head", begin)
    out = tmp_path / "demo"
    with pytest.raises(BegunError):
        demo_job.run_demo(out, 1, Device.CPU, False, SilentReporter())
    assert json.loads((out / "demo.json").read_text())["what"] == "SpatialARAnomaly demo"
    fill(out)
    (out / "model.training" / "features").mkdir(parents=True)
    write_marker(out / "model.training" / "training.json", "SpatialARAnomaly training in progress")
    (out / "model.training" / "features" / "one.npy").write_text("tokens")
    with pytest.raises(BegunError):
        demo_job.run_demo(out, 1, Device.CPU, True, SilentReporter())
    assert sorted(tree(out)) == ["demo.json", "notes.txt", "volumes"]
