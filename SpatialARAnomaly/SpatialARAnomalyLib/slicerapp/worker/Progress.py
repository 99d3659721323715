"""What a running job has to say, in words and as a share of the whole."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    share: float
    """Of all stages, 0 to 1."""
    text: str


def stageName(stage: str) -> str:
    """The stage in the user's words."""
    return {
        "send": _("Handing over the volume"),
        "make": _("Making normal heads"),
        "read": _("Reading"),
        "embed": _("Embedding slices"),
        "find": _("Finding anomalies"),
        "write": _("Writing results"),
        "load": _("Loading the result"),
        "fit": _("Learning what is normal"),
        "calibrate": _("Calibrating"),
        "copy": _("Copying"),
        "verify": _("Verifying"),
        "remove": _("Removing from the old place"),
        "weights": _("Installing the weights"),
        "download": _("Downloading"),
        "check": _("Loading the encoder"),
    }.get(stage, stage)


PROGRESS_STEPS = 1000
"""Maximum of the panel's progress bars, as their .ui files say."""


def showShare(bar: "qt.QProgressBar", share: float) -> None:
    """Move a progress bar of the panel to a share of the whole."""
    bar.setValue(round(share * PROGRESS_STEPS))


def timeLeft(seconds: float) -> str:
    """About how long it will take."""
    if seconds >= 90:
        return _("about {minutes} min left").format(minutes=round(seconds / 60))
    return _("about {seconds} s left").format(seconds=max(1, round(seconds)))


class StageProgress:
    """Turns a job's `stage` and `progress` events into `Progress`."""

    def __init__(self) -> None:
        self._stage, self._index, self._of = "", 1, 1

    def hear(self, event: dict[str, Any]) -> Progress | None:
        """What the event means for the whole; None where it says nothing of progress."""
        if event.get("event") == "stage":
            self._stage = str(event["name"])
            self._index, self._of = int(event["index"]), max(1, int(event["of"]))
            return Progress((self._index - 1) / self._of, stageName(self._stage))
        if event.get("event") == "progress":
            done, total = int(event["done"]), max(1, int(event["total"]))
            if event.get("unit") == "byte":
                text = _("{stage}: {done} of {total}").format(
                    stage=stageName(self._stage), done=sizeText(done), total=sizeText(total)
                )
            else:
                text = _("{stage}: {done} of {total}").format(
                    stage=stageName(self._stage), done=done, total=total
                )
            if event.get("eta_s"):
                text = f"{text}, {timeLeft(float(event['eta_s']))}"
            return Progress((self._index - 1 + done / total) / self._of, text)
        return None


def progressCallback(onProgress: Callable[[Progress], None]) -> Callable[[dict[str, Any]], None]:
    """A receiver of a job's events that tells how far the job is."""
    stages = StageProgress()

    def heard(event: dict[str, Any]) -> None:
        progress = stages.hear(event)
        if progress is not None:
            onProgress(progress)

    return heard
