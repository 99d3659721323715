"""Every click and command of the tutorial's page runs, on small heads with a small model."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from Harness import run_events, wait_until
from service.small_site import SHAPE_KJI, SPACING_MM, run
from slicerapp.heads import add_head
from SpatialARAnomalyLib.engine.volumes.files import write_nifti, write_nifti_labels
from SpatialARAnomalyLib.service.demo.phantom import add_lesion, normal_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[3] / "Resources/Docs/tutorial.md"

CLICKED_ELSEWHERE = {
    "Make demonstration model": "test_detection",
    "Pause": "test_train_panel",
    "Resume": "test_train_panel",
}
"""Buttons of the tutorial that other tests click: they take long, or must meet a running job."""


def section(title: str) -> str:
    """Return the part of the tutorial under a heading."""
    return PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def button(module, text: str):
    """Return the button with a text, which must be enabled."""
    import qt

    found = [
        one
        for one in module.panel.findChildren(qt.QAbstractButton)
        if one.text == text and one.inherits("QPushButton")
    ]
    (shown,) = [one for one in found if one.isVisibleTo(module.panel)]
    assert shown.isEnabled(), shown.toolTip
    return shown


def coarse_head(seed: int):
    return normal_head(seed, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)


@pytest.fixture
def trainer(opened):
    """The trainer of this Slicer, whose process ends with the test."""
    import slicer
    from SpatialARAnomalyLib.slicerapp.tasks.Training import TRAINER_ATTRIBUTE, sharedTrainer

    trainer = sharedTrainer()
    yield trainer
    trainer.stop()
    delattr(slicer.modules, TRAINER_ATTRIBUTE)


def test_every_click_of_the_tutorial_works(opened, trainer, tmp_path):
    """The buttons in bold, in their order; a small model and small heads stand for the real."""
    ui, panel, logic = opened.ui, opened.widget.panel, opened.widget.logic
    heads, exported = tmp_path / "heads", tmp_path / "exported"
    for folder in (heads, exported):
        folder.mkdir()
    for number in range(8):
        write_nifti(heads / f"head_{number}.nii.gz", coarse_head(number))
    scan, lesion = add_head()

    def open_section(name: str) -> None:
        panel.tabs.setCurrentIndex(0 if name in ("detect", "review", "export") else 1)
        getattr(ui, f"{name}Section").setProperty("collapsed", False)
        run_events()

    def choose_first_finding() -> None:
        ui.findingsTable.selectRow(0)
        run_events()

    def choose_heads() -> None:
        open_section("train")
        ui.trainFolderEdit.setCurrentPath(str(heads))
        ui.trainNameEdit.setText("Heads T1, axial")
        ui.trainSizeSpinBox.setValue(112)
        ui.trainEpochsSpinBox.setValue(2)

    def choose_truth() -> None:
        import slicer

        open_section("evaluate")
        truth = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Truth")
        slicer.util.updateVolumeFromArray(truth, lesion.astype(np.uint8))
        truth.CopyOrientation(scan)
        run_events()
        ui.truthSelector.setCurrentNode(truth)
        run_events()

    def choose_folder() -> None:
        open_section("export")
        ui.exportFolderEdit.setCurrentPath(str(exported))

    before = {
        "Detect anomalies": lambda: ui.inputSelector.setCurrentNode(scan),
        "Accept finding": choose_first_finding,
        "Reject finding": choose_first_finding,
        "Export": choose_folder,
        "Survey scans": choose_heads,
        "Show card": lambda: open_section("models"),
        "Evaluate": choose_truth,
    }

    def busy() -> bool:
        return (
            logic.busy
            or panel.evaluate.evaluating
            or panel.train.scans.surveying
            or panel.models.busy
            or panel.models.listing
            or trainer.running
        )

    clicked = []
    for title in ("Find a lesion", "Train on eight heads", "Evaluate"):
        for name in re.findall(r"\*\*([^*]+)\*\*", section(f"{title}, in 3D Slicer")):
            if name in CLICKED_ELSEWHERE:
                continue
            before.get(name, lambda: None)()
            wait_until(lambda: not busy(), 300, "the section to be ready")
            button(opened, name).click()
            run_events()
            wait_until(lambda: not busy(), 300, name)
            run_events()
            clicked.append(name)
    assert clicked[0] == "Detect anomalies"
    assert {"Export", "Train", "Show card", "Evaluate"} <= set(clicked)
    assert {path.suffix for path in exported.iterdir()} >= {".nrrd", ".csv", ".gz"}
    assert ui.modelsCardFrame.isVisibleTo(ui.modelsSection)
    assert "AUROC" in ui.evaluateTable.item(0, 0).text()


def test_every_command_of_the_tutorial_runs(tmp_path, monkeypatch):
    """On coarse heads in place of the demo's; the program's own commands run in this process."""
    volumes = tmp_path / "spatial-ar-anomaly-demo" / "volumes"
    volumes.mkdir(parents=True)
    for number in range(1, 10):
        write_nifti(volumes / f"normal_{number:02}.nii.gz", coarse_head(number))
    head, lesion = add_lesion(coarse_head(21), 21, radius_mm=20.0, contrast=1.2)
    write_nifti(volumes / "lesion.nii.gz", head)
    truth = volumes / "lesion_truth.nii.gz"
    write_nifti_labels(truth, lesion.astype(np.uint8), head.ras_from_voxel)
    monkeypatch.chdir(tmp_path)
    made: set[str] = set()
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in "".join(blocks).splitlines():
        program, *words = line.split()
        if program == "spatial-ar-anomaly":
            done = run(*words)
            assert done.exit_code == 0, line + done.stderr
        else:
            subprocess.run(["bash", "-euc", line], check=True, timeout=60)
        made |= {path.name for path in tmp_path.iterdir()}
    assert {"heads-t1.safetensors", "heads-t1.md", "results", "evaluation"} <= made
    assert [path.name for path in tmp_path.iterdir()] == ["spatial-ar-anomaly-demo"]
