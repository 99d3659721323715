"""Installs an offline kit into the Python that runs this (in Slicer the panel does it)."""

import subprocess
import sys
import tempfile
from pathlib import Path

from ..engine.errors import SetupError
from ..engine.progress import Reporter
from .constraints import free_to_change, held_versions, write_constraints
from .kit_manifest import KitManifest, check_fits, pip_arguments, verify_kit
from .packages import PackageState, check_packages, installed_versions


def needed(manifest: KitManifest) -> tuple[str, ...]:
    """Which of a kit's requirements are not met here yet, by the packages' metadata."""
    checks = check_packages(installed_versions(), requirements=manifest.requirements)
    return tuple(one.requirement for one in checks if one.state is not PackageState.READY)


def install_kit(folder: Path, report: Reporter, *, pip: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Verify a kit, install what is missing, and its weights; the weights' hub ids.

    Nothing installed is changed but what is missing or too old. `pip` is the
    command of another Python's pip. Raises `SetupError` and `EncoderError`.
    """
    manifest = verify_kit(folder, report)
    check_fits(manifest)
    missing = needed(manifest)
    if missing:
        held = held_versions(
            installed_versions(), free_to_change(_name(requirement) for requirement in missing)
        )
        with tempfile.TemporaryDirectory(prefix="spatial-ar-") as work:
            constraints = Path(work) / "constraints.txt"
            write_constraints(constraints, held)
            command = [*(pip or (sys.executable, "-m", "pip")), "install", "--no-input"]
            arguments = [*pip_arguments(folder, missing), "--constraint", str(constraints)]
            done = subprocess.run([*command, *arguments], capture_output=True, check=False)
        if done.returncode:
            report.check_cancelled()  # Ctrl-C ends pip, too: that is no fault of pip's
            words = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
            wrong = [line for line in words if line.startswith("ERROR")] or words[-3:]
            raise SetupError(
                "pip-failed", "pip could not install the kit's packages.", "\n".join(wrong)
            )
    if not manifest.encoders:
        return ()
    from .kit_weights import install_weights

    return install_weights(folder, manifest, report)


def _name(requirement: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(requirement).name
