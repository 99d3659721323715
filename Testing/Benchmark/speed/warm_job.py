"""A whole detection with everything warm: from a scan's file to all files written.

The steps of `detect_to_files` with the model that the worker keeps between detections
(`service.detection.model_cache`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from Benchmark.speed.encoders import QUICK_SIZE, SIZES, encoder_folder
from Benchmark.speed.site import SIDE, SLICES, head_scan, trained_model
from Benchmark.speed.tables import Options
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.detection.detect import (
    Clock,
    Detection,
    PreparedScan,
    detect,
    prepare_scan,
)
from SpatialARAnomalyLib.service.detection.model_cache import Model, ModelCache
from SpatialARAnomalyLib.service.detection.result_files import (
    result_names,
    write_results,
)
from SpatialARAnomalyLib.service.outputs import write_atomically
from SpatialARAnomalyLib.service.scans import find_one_scan

if TYPE_CHECKING:
    import torch
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.slices.slice_stack import SliceStack

SIDE_PX = 448


@dataclass(frozen=True)
class Setting:
    """A scan and a model of some size."""

    slices: int = SLICES
    side: int = SIDE
    """Side of the scan in voxels."""
    size_px: int = SIDE_PX
    encoder: str = "S"


QUICK = Setting(slices=8, side=48, size_px=64, encoder="")
LESION_SEED = 7


@dataclass(eq=False)
class WarmJob:
    """Repeats a detection in one scan."""

    scan: Path
    model: Path
    encoder_folder: Path
    out: Path
    device: "torch.device"
    models: ModelCache = field(default_factory=ModelCache)
    detection: Detection | None = None
    """Result of the last call."""

    @classmethod
    def make(cls, options: Options, setting: Setting | None = None) -> "WarmJob":
        """Make the files and the job; call it within `own_settings`."""
        setting = setting or (QUICK if options.quick else Setting())
        size = SIZES[setting.encoder] if setting.encoder else QUICK_SIZE
        lesion = not options.quick  # a few thick slices are too small for one
        return cls(
            scan=head_scan(options.work, LESION_SEED, setting.slices, setting.side, lesion),
            model=trained_model(
                options.work, size, setting.size_px, options.device.type, setting.side
            ),
            encoder_folder=encoder_folder(options.work, size),
            out=options.work / "results",
            device=options.device,
        )

    def __call__(self) -> Detection:
        """Detect, from the scan's file to all files of the command line."""
        report, clock = SilentReporter(), Clock()
        scan, model, name = self.read()
        files = result_names(name)
        with write_atomically(self.out, list(files.values()), overwrite=True) as partial:
            clock.lap("read")
            detection = detect(scan, model, report=report, clock=clock)
            write_results(detection, partial, files, report)
        clock.lap("write")
        self.detection = detection
        return detection

    def read(self) -> tuple[PreparedScan, Model, str]:
        """Read the scan, and return it with the kept model and its name."""
        model = self.models.load(self.model, self.device.type, encoder=str(self.encoder_folder))
        name, volume = find_one_scan(self.scan).read()
        return prepare_scan(volume, model.card, True, SilentReporter()), model, name

    def stack(self) -> "tuple[SliceStack, Encoder]":
        """Cut the scan into the encoder's slices."""
        from SpatialARAnomalyLib.engine.slices.slice_stack import SliceStack

        scan, model, _ = self.read()
        card = model.card
        stack = SliceStack(scan.plane_volume, card.slices, card.intensity, card.encoder.patch_px)
        return stack, model.encoder
