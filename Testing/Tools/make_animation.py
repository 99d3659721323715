"""Make the animated picture of the first minute: sample head, detection, findings, one accepted.

    PYTHONPATH=Testing .venv/bin/python Testing/Tools/make_animation.py --models FOLDER

FOLDER holds the demonstration model (`demonstration-head.safetensors`) and is not changed. Runs
the module in the headless Slicer of `Testing/Harness`, as `make_screenshots.py` does.
"""

import argparse
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

from Harness import color_scheme, grab, load_scripted_module, run_events, start, wait_until
from PIL import Image
from Tools.make_screenshots import ROOT, SCREENSHOTS, VIEW_PX, WAIT_S, beside_views, open_only

PICTURE = SCREENSHOTS / "first_minute.gif"
WIDTH_PX = 760
COLORS = 96
MAX_BYTES = 2_000_000


class Film:
    """Frames of the panel beside the slice views, each with the time it is shown."""

    def __init__(self, module: object, work: Path) -> None:
        self._module, self._work = module, work
        self._frames: list[tuple[Image.Image, int]] = []

    def take(self, milliseconds: int) -> None:
        """Add what is seen now."""
        run_events(0.2)
        path = self._work / "panel.png"
        with color_scheme("light"):
            self._module.enter()
        grab(self._module.panel, path, scheme="light")
        with Image.open(path) as panel:
            whole = beside_views(panel.convert("RGB"))
        size = (WIDTH_PX, round(whole.height * WIDTH_PX / whole.width))
        self._frames.append((whole.resize(size, Image.Resampling.LANCZOS), milliseconds))

    def save(self, path: Path) -> None:
        """Write the film, all frames as high as the highest and in the colors of the last."""
        height = max(frame.height for frame, _ in self._frames)
        whole = []
        for frame, _ in self._frames:
            canvas = Image.new("RGB", (WIDTH_PX, height), "white")
            canvas.paste(frame, (0, 0))
            whole.append(canvas)
        palette = whole[-1].quantize(COLORS)
        first, *rest = (one.quantize(palette=palette, dither=Image.Dither.NONE) for one in whole)
        first.save(
            path,
            save_all=True,
            append_images=rest,
            duration=[milliseconds for _, milliseconds in self._frames],
            loop=0,
            optimize=True,
        )


def play(module: object, film: Film) -> None:
    """Load the sample head, detect, go through the findings and accept the first."""
    import SampleData
    import slicer
    from SpatialARAnomalyLib.slicerapp.tasks.SampleHeads import LESION, sampleNames

    logic, ui = module.widget.logic, module.ui
    SampleData.click_sample(sampleNames()[LESION])
    run_events(0.2)
    slicer.app.layoutManager().resetSliceViews()
    film.take(2500)
    ui.detectButton.click()
    run_events(0.5)
    for share in (0.2, 0.4, 0.6, 0.8):
        wait_until(partial(_reached, logic, ui, share), WAIT_S, "the progress")
        if logic.busy:
            film.take(450)
    wait_until(lambda: not logic.busy, WAIT_S, "the detection")
    run_events(0.5)
    film.take(3000)
    for row in range(min(3, ui.findingsTable.property("rowCount"))):
        ui.findingsTable.selectRow(row)
        film.take(1500)
    ui.findingsTable.selectRow(0)
    run_events(0.2)
    ui.acceptButton.click()
    film.take(3500)


def _reached(logic: object, ui: object, share: float) -> bool:
    """Return whether the bar has come so far, or the detection has ended."""
    return not logic.busy or ui.progressBar.value >= share * ui.progressBar.maximum


def main() -> None:
    """Write the animated picture into the repository."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ.setdefault("SPATIAL_AR_ANOMALY_HOME", folder)
        start(work / "slicer", view_size_px=(VIEW_PX, VIEW_PX))
        from SpatialARAnomalyLib.slicerapp import Settings
        from SpatialARAnomalyLib.slicerapp.tasks.Detection import DEMONSTRATION_FILE

        (work / "models").mkdir()
        shutil.copy(chosen.models / DEMONSTRATION_FILE, work / "models" / DEMONSTRATION_FILE)
        Settings.setModelsFolder(work / "models")
        module = load_scripted_module(ROOT / "SpatialARAnomaly/SpatialARAnomaly.py")
        module.enter()
        open_only(module, "detect", "review")
        film = Film(module, work)
        play(module, film)
        film.save(PICTURE)
        module.unload()
    size = PICTURE.stat().st_size
    assert size < MAX_BYTES, f"{size} bytes"
    print(f"Written: {PICTURE.relative_to(ROOT)}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
