"""The operations that faults are tried on: what a hospital runs, on the smallest scans."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from service.model_folders import add_model
from service.small_site import Site
from SpatialARAnomalyLib.engine.model.model_file import copy_model
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file, write_nifti_labels

Command = list[object] | dict[str, Any]

TRAINING = ("--size-px", "112", "--epochs", "4", "--batch-size", "8", "--device", "cpu")


@dataclass(frozen=True)
class Operation:
    """A command, on a folder that is prepared for it."""

    name: str
    command: Callable[[Site, Path], Command]
    """Of the site and the folder that the command may change."""
    prepare: Callable[[Site, Path], None] = lambda site, folder: None
    repeats: bool = False
    """It replaces its own results, so that it can be repeated after it is done."""


def _train(site: Site, folder: Path) -> Command:
    return ["train", *site.normals, "--out", folder / "brain", *TRAINING, "--json"]


def _detect(site: Site, folder: Path) -> Command:
    return [
        "detect", site.normals[0], "--model", site.model, "--out", folder / "results", "--name",
        "scan", "--device", "cpu", "--report", "--allow-mismatch", "--json",
    ]  # fmt: skip


def _import(site: Site, folder: Path) -> Command:
    return ["models", "import", site.model, "--folder", folder / "models", "--json"]


def _export(site: Site, folder: Path) -> Command:
    return ["models", "export", site.model, folder / "copy", "--json"]


def _evaluate(site: Site, folder: Path) -> Command:
    return [
        "evaluate", _cases(site), "--model", site.model, "--out", folder / "evaluated",
        "--resamples", "20", "--device", "cpu", "--allow-mismatch", "--json",
    ]  # fmt: skip


def _cases(site: Site) -> Path:
    return site.model.parent / "cases"


def _keep_model(site: Site, folder: Path) -> None:
    copy_model(site.model, folder / "brain.safetensors", name="brain")


def _keep_results(site: Site, folder: Path) -> None:
    (folder / "results").mkdir()
    for file in (site.model.parent / "results").iterdir():
        shutil.copy(file, folder / "results")


def _keep_library(site: Site, folder: Path) -> None:
    add_model(folder / "models", "other")


def _export_job(site: Site, folder: Path) -> Command:
    results = site.model.parent / "results"
    labels, nll = (results / f"{name}.npy" for name in ("labels", "nll"))
    return {
        "job": "export",
        "inputs": {
            "labels": str(labels),
            "nll": str(nll),
            "size_kji": list(np.load(nll, mmap_mode="r").shape),
            "ras_from_voxel": np.eye(4).tolist(),
            "findings": [{"rank": 1, "comment": "…"}],
            "columns": ["rank", "comment"],
            "segments": [{"value": 1, "id": "a", "name": "A", "color": [1.0, 0.0, 0.0]}],
        },
        "spec": {
            "formats": ["labels_nifti", "labels_nrrd", "segmentation", "findings", "nll"],
            "name": "case",
            "overwrite": True,
        },
        "output": str(folder / "exported"),
    }


def _in_worker(job: str, site: Site, folder: Path) -> Command:
    """Return a request for the panel's worker, a process of its own."""
    inputs: dict[str, Any] = {"path": str(site.normals[0])}
    spec: dict[str, Any] = {"model": str(site.model), "device": "cpu", "allow_mismatch": True}
    if job == "train":
        inputs = {"normals": [{"path": str(one)} for one in site.normals]}
        spec = {"size_px": 112, "epochs": 4, "batch_size": 8, "device": "cpu"}
    output = folder / ("brain" if job == "train" else "results")
    return {"job": job, "inputs": inputs, "spec": spec, "output": str(output)}


WORKER_OPERATIONS = {
    one.name: one
    for one in (
        Operation("worker train", partial(_in_worker, "train")),
        Operation("worker detect", partial(_in_worker, "detect_scan")),
        Operation("worker export", _export_job, repeats=True),
    )
}
"""Jobs of the panel's worker."""

OPERATIONS = {
    one.name: one
    for one in (
        Operation("train", _train),
        Operation("train again", lambda *of: [*_train(*of), "--overwrite"], _keep_model, True),
        Operation("detect", _detect),
        Operation("detect again", lambda *of: [*_detect(*of), "--overwrite"], _keep_results, True),
        Operation("export", _export_job, repeats=True),
        Operation("import", _import, _keep_library, True),
        Operation("model export", _export),
        Operation("evaluate", _evaluate),
    )
}


def prepare_site(site: Site, run: Callable[[Path, Command], Any]) -> None:
    """Write the results and cases that operations start from, beside the model of the site."""
    cases = _cases(site)
    cases.mkdir()
    for number, scan in enumerate(site.normals[:2]):
        shutil.copy(scan, cases / f"{number}.nii.gz")
    volume = read_volume_file(site.normals[0])
    truth = np.zeros(volume.voxels.shape, np.uint8)
    truth[2:4, 20:28, 20:28] = 1
    write_nifti_labels(cases / "0_truth.nii.gz", truth, volume.ras_from_voxel)
    results = site.model.parent / "results"
    ended = run(site.model.parent, _detect(site, site.model.parent))
    assert ended.code == 0, ended.output
    for name, values in (("labels", np.uint16), ("nll", np.float32)):
        array = np.random.RandomState(0).randint(0, 2, (6, 48, 48)).astype(values)
        np.save(results / f"{name}.npy", array)
