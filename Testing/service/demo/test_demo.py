"""The demo as its user sees it: the lesion stands out, all files are kept, others stay."""

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
from SpatialARAnomalyLib.service.outputs import write_marker


@pytest.fixture
def demo(demo_run):
    events = (demo_run.parent / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return demo_run, [json.loads(line) for line in events]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_lesion_stands_out_and_the_result_describes_the_files(demo):
    """How much of the lesion is found depends on a short training, and so on the machine."""
    out, events = demo
    result = events[-1]
    assert result["event"] == "result"
    labels = np.asarray(nib.load(out / "results" / "lesion_labels.nii.gz").dataobj)
    truth = np.asarray(nib.load(out / "volumes" / "lesion_truth.nii.gz").dataobj) > 0
    first = labels == 1
    dice = 2 * np.count_nonzero(first & truth) / (np.count_nonzero(first) + np.count_nonzero(truth))
    assert dice == pytest.approx(result["dice"])
    nll = sitk.GetArrayFromImage(sitk.ReadImage(out / "results" / "lesion_nll.nrrd")).T
    assert np.median(nll[truth]) > np.percentile(nll, 99)
    numbers = [finding["per_normal_scan"] for finding in result["findings"]]
    assert numbers == sorted(numbers)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_volumes_model_and_results_are_kept(demo):
    out, _ = demo
    kept = tree(out)
    assert sum(name.startswith("volumes/normal_") for name in kept) == demo_job.NORMALS
    assert {"volumes/lesion.nii.gz", "volumes/lesion_truth.nii.gz"} <= set(kept)
    assert "model.safetensors" in kept
    assert sum(name.startswith("results/") for name in kept) == 6
    assert not any("training" in name or "partial" in name for name in kept)


def fill(out) -> None:
    for name in ("volumes/scan.nii", "model.safetensors", "results/paper.txt", "notes.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("text")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    fill(tmp_path)
    before = tree(tmp_path)
    result = run("demo", "--out", tmp_path)
    assert result.exit_code == 2
    assert "must be new or empty" in result.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize("marker", [None, "{}", '{"what": "another demo"}'])
def test_a_folder_of_something_else_is_never_replaced(tmp_path, marker):
    fill(tmp_path)
    if marker is not None:
        (tmp_path / "demo.json").write_text(marker)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="Only an earlier demo is replaced") as caught:
        demo_job.run_demo(tmp_path, 1, Device.CPU, True, SilentReporter())
    assert caught.value.code == "output-not-a-demo"
    assert tree(tmp_path) == before


def test_an_earlier_demo_is_replaced_and_other_files_are_kept(tmp_path, monkeypatch):
    class BegunError(Exception):
        pass

    def begin(*_: int) -> None:
        raise BegunError

    monkeypatch.setattr(demo_job, "normal_head", begin)
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
