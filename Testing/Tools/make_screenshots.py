"""Make the pictures of the panel and the slice views for the documents and the Sample Data module.

    PYTHONPATH=Testing .venv/bin/python Testing/Tools/make_screenshots.py [--models FOLDER]

Runs the module in the headless Slicer of `Testing/Harness`: loads the sample head with a lesion,
clicks *Detect anomalies*, surveys scans and trains on them, tries the packages, and writes
pictures of it all. FOLDER may hold the demonstration model and is not changed; without it, the
model is trained (a minute).
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from Harness import color_scheme, grab, load_scripted_module, run_events, start, wait_until
from PIL import Image, ImageDraw, ImageFont
from service.small_site import SHAPE_KJI, SPACING_MM
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.service.demo.demo import head_with_lesion
from SpatialARAnomalyLib.service.demo.phantom import normal_head

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "Resources/Screenshots"
ICONS = ROOT / "SpatialARAnomaly/Resources/Icons"
VIEW_PX, THUMBNAIL_PX, GAP_PX, LETTER_PX = 560, 200, 8, 16
VIEWS = ("Red", "Yellow", "Green")
WAIT_S = 900
EPOCHS_SEEN = 5


def view(name: str) -> Image.Image:
    """Grab a slice view."""
    import slicer

    return Image.fromarray(slicer.app.layoutManager().sliceWidget(name).view.pixels())


def lettered(name: str, side_px: int) -> Image.Image:
    """Grab a slice view with the anatomical directions at its edges."""
    import slicer

    image = view(name).resize((side_px, side_px), Image.Resampling.LANCZOS)
    ras_from_xy = slicer.util.arrayFromVTKMatrix(
        slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetXYToRAS()
    )
    right, up = ras_from_xy[:3, 0], ras_from_xy[:3, 1]
    middle, edge = side_px // 2, LETTER_PX
    draw = ImageDraw.Draw(image)
    for direction, place in (
        (-right, (edge, middle)),
        (right, (side_px - edge, middle)),
        (up, (middle, edge)),
        (-up, (middle, side_px - edge)),
    ):
        axis = int(np.abs(direction).argmax())
        letter = ("RL", "AP", "SI")[axis][int(direction[axis] < 0)]
        font = ImageFont.load_default(LETTER_PX)
        draw.text(
            place, letter, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black"
        )
    return image


def save(image: Image.Image, path: Path) -> None:
    """Write a picture in a small file."""
    image.convert("RGB").save(path, optimize=True)


def beside_views(panel: Image.Image) -> Image.Image:
    """Place the panel beside the axial view, with the two others below."""
    half = (VIEW_PX - GAP_PX) // 2
    height = max(panel.height, VIEW_PX + GAP_PX + half)
    whole = Image.new("RGB", (panel.width + GAP_PX + VIEW_PX, height), "black")
    whole.paste(panel, (0, 0))
    left = panel.width + GAP_PX
    whole.paste(lettered("Red", VIEW_PX), (left, 0))
    for index, name in enumerate(VIEWS[1:]):
        small = lettered(name, half)
        whole.paste(small, (left + index * (half + GAP_PX), VIEW_PX + GAP_PX))
    return whole


def grab_both(module: object, name: str, work: Path) -> None:
    """Write the panel in the light and the dark palette."""
    for scheme in ("light", "dark"):
        path = work / f"{scheme}.png"
        with color_scheme(scheme):
            module.enter()  # icons follow the colors
        grab(module.panel, path, scheme=scheme)
        save(Image.open(path), SCREENSHOTS / f"{name}_{scheme}.png")


def open_only(module: object, *names: str) -> None:
    """Open these sections of the panel, on their tab, and close the others."""
    for name in (
        "detect",
        "batch",
        "review",
        "export",
        "evaluate",
        "train",
        "models",
        "encoders",
        "setup",
    ):
        getattr(module.ui, f"{name}Section").collapsed = name not in names
    module.widget.panel.tabs.setCurrentIndex(0 if "detect" in names else 1)
    run_events(0.3)


def detect_and_review(module: object, work: Path) -> None:
    """Detect and review the lesion of the sample head; write the sample heads' own pictures."""
    import SampleData
    import slicer
    from SpatialARAnomalyLib.slicerapp.tasks.SampleHeads import (
        LESION,
        NORMAL,
        sampleNames,
    )

    logic = module.widget.logic
    for kind in (NORMAL, LESION):
        SampleData.click_sample(sampleNames()[kind])
        run_events(0.2)
        slicer.app.layoutManager().resetSliceViews()
        thumbnail = view("Red").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
        save(thumbnail, ICONS / f"SampleHead_{kind}.png")
    head = slicer.util.getFirstNodeByClassByName("vtkMRMLScalarVolumeNode", "HeadWithLesion")
    module.ui.inputSelector.setCurrentNode(head)
    module.ui.detectButton.click()
    wait_until(lambda: not logic.busy, WAIT_S, "the detection")
    run_events(0.5)
    module.ui.acceptButton.click()
    grab_both(module, "panel", work)
    save(beside_views(Image.open(work / "light.png").convert("RGB")), SCREENSHOTS / "module.png")


def search_folder(module: object, work: Path) -> None:
    """Search a folder of scans, and choose one of them in the table."""
    folder = work / "archive"
    folder.mkdir()
    write_nifti(folder / "head 1.nii.gz", head_with_lesion(1)[0])
    write_nifti(folder / "head 2.nii.gz", normal_head(2))
    write_nifti(folder / "head 3.nii.gz", normal_head(3))
    (folder / "head 4.nii.gz").write_bytes(b"")
    ui, panel = module.ui, module.widget.panel
    ui.batchSection.setVisible(True)
    open_only(module, "detect", "batch")
    os.environ["HOME"] = str(work)  # the pictures are the same wherever they are made
    ui.batchScansEdit.setCurrentPath("~/archive")
    ui.batchResultsEdit.setCurrentPath("~/results")
    ui.batchButton.click()
    wait_until(lambda: not panel.batch.busy and not panel.batch.reading, WAIT_S, "the batch")
    ui.batchTable.horizontalHeader().sectionClicked.emit(0)
    ui.batchTable.selectRow(0)
    grab_both(module, "batch", work)


def evaluate(module: object, work: Path) -> None:
    """Evaluate the result against the sample head's own lesion."""
    import slicer

    panel = module.widget.panel.evaluate
    open_only(module, "evaluate")
    head, lesion = head_with_lesion(seed=1)
    truth = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "True lesion")
    slicer.util.updateVolumeFromArray(truth, lesion.astype(np.uint8))
    truth.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(head.ras_from_voxel))
    run_events()
    module.ui.truthSelector.setCurrentNode(truth)
    module.ui.evaluateButton.click()
    wait_until(lambda: not panel.evaluating, WAIT_S, "the evaluation")
    run_events(0.3)
    grab_both(module, "evaluate", work)


def train(module: object, work: Path) -> None:
    """Survey eight normal heads and two unusable ones; start a training and pause it."""
    folder = work / "normal heads"
    folder.mkdir()
    for number in range(8):
        head = normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
        write_nifti(folder / f"head_{number}.nii.gz", head)
    shutil.copy(folder / "head_1.nii.gz", folder / "head_1_copy.nii.gz")
    (folder / "torn.nii.gz").write_bytes((folder / "head_2.nii.gz").read_bytes()[:2000])
    ui, panel = module.ui, module.widget.panel.train
    open_only(module, "train")
    ui.trainFolderEdit.setCurrentPath(str(folder))
    ui.trainNameEdit.setText("Heads T1, axial")
    ui.trainSizeSpinBox.setValue(112)
    ui.trainSurveyButton.click()
    wait_until(lambda: not panel.scans.surveying, WAIT_S, "the survey")
    ui.trainButton.click()
    training = panel.trainer.training
    wait_until(lambda: len(training.curve) >= EPOCHS_SEEN, WAIT_S, "some epochs")
    ui.trainPauseButton.click()
    wait_until(lambda: training.state == "paused", WAIT_S, "the pause")
    ui.trainFolderEdit.setCurrentPath("/data/normal heads")
    run_events(0.1)
    grab_both(module, "train", work)
    panel.trainer.stop()


def models_and_encoders(module: object, work: Path) -> None:
    """Show the library of models, and the encoders."""
    open_only(module, "models", "encoders")
    panel = module.widget.panel.models
    wait_until(lambda: not panel.listing, WAIT_S, "the list of models")
    grab_both(module, "models", work)


def set_up(module: object, work: Path) -> None:
    """Show the packages after trying them."""
    open_only(module, "setup")
    dependencies = module.widget.panel.setup.dependencies
    module.ui.setupCheckButton.click()
    wait_until(lambda: not dependencies.checking, WAIT_S, "the packages to be tried")
    run_events(0.2)
    grab_both(module, "setup", work)


def make(models: Path | None, work: Path) -> None:
    """Write all pictures."""
    start(work / "slicer", view_size_px=(VIEW_PX, VIEW_PX))
    from SpatialARAnomalyLib.slicerapp import Settings
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import DEMONSTRATION_FILE

    folder = work / "models"
    if models is not None:
        folder.mkdir()
        shutil.copy(models / DEMONSTRATION_FILE, folder / DEMONSTRATION_FILE)
    Settings.setModelsFolder(folder)
    module = load_scripted_module(ROOT / "SpatialARAnomaly/SpatialARAnomaly.py")
    module.enter()
    open_only(module, "detect", "review")
    if models is None:
        module.widget.panel.detect.demonstrationAction.trigger()
        wait_until(lambda: not module.widget.logic.busy, WAIT_S, "the demonstration model")
    detect_and_review(module, work)
    search_folder(module, work)
    evaluate(module, work)
    models_and_encoders(module, work)
    train(module, work)
    set_up(module, work)
    module.unload()


def main() -> None:
    """Write the pictures into the repository."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="a folder with the demonstration model")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ.setdefault("SPATIAL_AR_ANOMALY_HOME", work)
        make(chosen.models, Path(work))


if __name__ == "__main__":
    main()
