"""The pictures of the panel and the slice views in the README and the Sample Data module.

    .venv/bin/python Testing/make_screenshots.py [--models FOLDER]

Runs the module in the headless Slicer of `Testing/Harness`: loads the sample
head with a lesion, clicks *Detect anomalies* and writes what is to be seen.
FOLDER may hold the demonstration model; without it, it is trained (a minute).
"""

import argparse
import os
import tempfile
from pathlib import Path

from Harness import grab, load_scripted_module, run_events, start, wait_until
from PIL import Image

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "Resources/Screenshots"
ICONS = ROOT / "SpatialARAnomaly/Resources/Icons"
VIEW_PX, THUMBNAIL_PX, GAP_PX = 560, 200, 8
VIEWS = ("Red", "Yellow", "Green")
WAIT_S = 900


def view(name: str) -> Image.Image:
    """What a slice view shows."""
    import slicer

    return Image.fromarray(slicer.app.layoutManager().sliceWidget(name).view.pixels())


def save(image: Image.Image, path: Path) -> None:
    """Write a picture, as small as it gets."""
    image.convert("RGB").save(path, optimize=True)


def beside_views(panel: Image.Image) -> Image.Image:
    """The panel with the axial view beside it and the two others below that."""
    half = (VIEW_PX - GAP_PX) // 2
    height = max(panel.height, VIEW_PX + GAP_PX + half)
    whole = Image.new("RGB", (panel.width + GAP_PX + VIEW_PX, height), "black")
    whole.paste(panel, (0, 0))
    left = panel.width + GAP_PX
    whole.paste(view("Red"), (left, 0))
    for index, name in enumerate(VIEWS[1:]):
        small = view(name).resize((half, half), Image.Resampling.LANCZOS)
        whole.paste(small, (left + index * (half + GAP_PX), VIEW_PX + GAP_PX))
    return whole


def make(models: Path, work: Path) -> None:
    """Write all pictures."""
    app = start(work / "slicer", view_size_px=(VIEW_PX, VIEW_PX))
    import SampleData
    import slicer
    from SpatialARAnomalyLib.slicerapp import Settings
    from SpatialARAnomalyLib.slicerapp.DemonstrationModel import FOLDER
    from SpatialARAnomalyLib.slicerapp.SampleHeads import LESION, NORMAL, sampleNames

    Settings.setModelsFolder(models)
    module = load_scripted_module(ROOT / "SpatialARAnomaly/SpatialARAnomaly.py")
    module.enter()
    logic = module.widget.logic
    if not (models / FOLDER).exists():
        module.widget.panel.detect._demonstration.trigger()
        wait_until(lambda: not logic.busy, WAIT_S, "the demonstration model")
    for kind in (NORMAL, LESION):
        SampleData.click_sample(sampleNames()[kind])
        run_events(0.2)
        app.layoutManager().resetSliceViews()
        thumbnail = view("Red").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
        save(thumbnail, ICONS / f"SampleHead_{kind}.png")
    head = slicer.util.getFirstNodeByClassByName("vtkMRMLScalarVolumeNode", "HeadWithLesion")
    module.ui.inputSelector.setCurrentNode(head)
    module.ui.detectButton.click()
    wait_until(lambda: not logic.busy, WAIT_S, "the detection")
    run_events(0.5)
    module.ui.acceptButton.click()
    for scheme in ("light", "dark"):
        path = work / f"{scheme}.png"
        grab(module.panel, path, scheme=scheme)
        save(Image.open(path), SCREENSHOTS / f"panel_{scheme}.png")
    save(beside_views(Image.open(work / "light.png").convert("RGB")), SCREENSHOTS / "module.png")
    module.unload()


def main() -> None:
    """Write the pictures into the repository."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="a folder with the demonstration model")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ.setdefault("SPATIAL_AR_ANOMALY_HOME", work)
        make(chosen.models or Path(work) / "models", Path(work))


if __name__ == "__main__":
    main()
