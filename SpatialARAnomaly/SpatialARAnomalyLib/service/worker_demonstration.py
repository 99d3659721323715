"""The worker's demonstration model: scans and training lie in a folder that goes away."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.atomic_files import PARTIAL_PREFIX, remove_stale_partials, unwritable
from ..engine.device import Device, require_torch
from ..engine.model_store import check_free, model_path
from ..engine.progress import Reporter
from ..engine.specs import Spec
from . import sample_scans
from .demonstration_model import train_demonstration, write_normals
from .outputs import make_folder

SEED = 1
"""Of the heads."""


@dataclass(frozen=True, kw_only=True)
class DemonstrationSpec(Spec):
    """How to train."""

    device: Device = Device.AUTO


def make_model(spec: DemonstrationSpec, output: Path, report: Reporter) -> dict[str, Any]:
    """Train the demonstration model as the file `output`; what the result says of it.

    Raises `OutputError` where that exists already, `Cancelled` through
    `report`; nothing is left behind in either case.
    """
    require_torch()
    output = model_path(output)
    check_free(output, overwrite=False)
    make_folder(output.parent)
    remove_stale_partials(output.parent)
    try:
        with tempfile.TemporaryDirectory(
            prefix=PARTIAL_PREFIX, dir=output.parent, ignore_cleanup_errors=True
        ) as work:
            new = Path(work) / "new"
            new.mkdir()
            report.stage("make", 1, 1)

            def told(done: int) -> None:
                report.check_cancelled()
                report.progress(done, sample_scans.NORMALS, "scan")

            normals = write_normals(new, SEED, told)
            report.progress(len(normals), len(normals), "scan")
            card = train_demonstration(normals, new / output.name, spec.device, report)
            check_free(output, overwrite=False)
            os.replace(new / output.name, output)
    except OSError as error:
        raise unwritable("The model cannot be written", error) from None
    return {"model": str(output), "name": card.name}
