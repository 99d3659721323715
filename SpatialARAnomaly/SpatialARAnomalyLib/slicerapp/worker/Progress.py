"""Progress of a job: words for its stages, and its share of the whole."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText


@dataclass(frozen=True)
class Progress:
    """Progress of a job."""

    share: float
    """Completed share of all stages, 0 to 1."""
    text: str


def stageName(stage: str) -> str:
    """Return the name of a stage that the user sees."""
    return {
        "send": _("Sending the volume"),
        "list": _("Looking for scans"),
        "estimate": _("Estimating"),
        "make": _("Making normal heads"),
        "read": _("Reading"),
        "embed": _("Embedding slices"),
        "find": _("Finding anomalies"),
        "write": _("Writing results"),
        "load": _("Loading the result"),
        "fit": _("Training the model"),
        "calibrate": _("Calibrating"),
        "copy": _("Copying"),
        "verify": _("Checking"),
        "remove": _("Removing the originals"),
        "weights": _("Installing the weights"),
        "download": _("Downloading"),
        "check": _("Loading the encoder"),
        "detect": _("Detecting anomalies"),
    }.get(stage, stage)


PROGRESS_STEPS = 1000
"""Maximum of the panel's progress bars, as set in their .ui files."""


def showShare(bar: "qt.QProgressBar", share: float) -> None:
    """Set a progress bar of the panel to a share of the whole."""
    bar.setValue(round(share * PROGRESS_STEPS))


def timeLeft(seconds: float) -> str:
    """Return the remaining time in words."""
    if seconds >= 2.5 * 3600:
        return _("about {hours} h left").format(hours=round(seconds / 3600))
    if seconds >= 90:
        return _("about {minutes} min left").format(minutes=round(seconds / 60))
    return _("about {seconds} s left").format(seconds=max(1, round(seconds)))


def progressCallback(onProgress: Callable[[Progress], None]) -> Callable[[dict[str, Any]], None]:
    """Return a callback for a job's events that passes its progress to `onProgress`."""
    name, index, count = "", 1, 1

    def report(event: dict[str, Any]) -> None:
        nonlocal name, index, count
        if event.get("event") == "stage":
            name = stageName(str(event["name"]))
            index, count = int(event["index"]), max(1, int(event["of"]))
            onProgress(Progress((index - 1) / count, name))
        elif event.get("event") == "progress":
            done, total = int(event["done"]), max(1, int(event["total"]))
            shown = sizeText if event.get("unit") == "byte" else str
            text = _("{stage}: {done} of {total}").format(
                stage=name, done=shown(done), total=shown(total)
            )
            if event.get("eta_s"):
                text = f"{text}, {timeLeft(float(event['eta_s']))}"
            onProgress(Progress((index - 1 + done / total) / count, text))

    return report
