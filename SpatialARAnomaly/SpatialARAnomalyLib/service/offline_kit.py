"""Makes an offline kit: on a connected machine, for one without internet.

The work goes on in `FOLDER.partial` beside it, which an interrupted command
leaves and the next one goes on with; FOLDER appears when the kit is whole.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engine.atomic_files import sync, unwritable
from ..engine.errors import OutputError, SetupError
from ..engine.file_hash import file_sha256
from ..engine.progress import Reporter
from ..engine.specs import Spec
from .constraints import constraint_lines, write_constraints
from .kit_manifest import (
    ENCODERS,
    MANIFEST,
    WHEELS,
    KitEncoder,
    KitFile,
    KitManifest,
    list_files,
)
from .kit_weights import copy_weights
from .packages import REQUIREMENTS, TORCH
from .slicer_bundle import SLICER_5_12, SLICER_PYTHON
from .wheels import Wheel, closure, marker_environment, read_wheel

TORCH_INDEX = "https://download.pytorch.org/whl"
"""Where PyTorch has its builds, each under its name: cpu, cu126, …"""

MACHINE = "machine.tmp"
"""Notes in a kit under way which machine its wheels are for."""

LAST_LINES = 12
"""What is shown of pip's words where it failed."""

ROUNDS = 20
"""How often what the markers of the other machine ask for is fetched; two or three suffice."""


@dataclass(frozen=True, kw_only=True)
class KitSpec(Spec):
    """What kit to make."""

    platform: str
    """As pip calls it: win_amd64, manylinux_2_28_x86_64, macosx_14_0_arm64."""
    python_version: str = SLICER_PYTHON
    build: str | None = None
    """Of torch: `cpu`, `cu126`, …; None takes what the package index has."""
    torch_index: str = TORCH_INDEX
    encoders: tuple[str, ...] = ()
    """Hub ids of weights."""
    requirements: tuple[str, ...] = REQUIREMENTS

    def __post_init__(self) -> None:
        parts = self.python_version.split(".")
        self._require(
            len(parts) == 2 and all(part.isdigit() for part in parts),
            "python_version must be two numbers such as 3.12",
        )
        self._require(
            self.build is None or self.build.isalnum(), "build must be a name such as cpu or cu126"
        )


def make_kit(
    folder: Path,
    spec: KitSpec,
    report: Reporter,
    *,
    held: Mapping[str, str] | None = None,
    allow_download: bool = True,
) -> KitManifest:
    """Collect wheels and weights into `folder`, which must not exist; its manifest.

    `held` are the versions that the other machine has and keeps; by default
    those that Slicer 5.12 brings. Raises `SetupError` (`kit-platform`,
    `pip-failed`, `kit-conflict`, `kit-incomplete`), `EncoderError`, `OutputError`,
    and `Cancelled` through `report`.
    """
    held = SLICER_5_12 if held is None else held
    environment = marker_environment(spec.platform, spec.python_version)
    folder = folder.absolute()
    if folder.exists():
        raise OutputError(
            "output-exists", f"'{folder.name}' exists already.", "Choose another folder."
        )
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        _begin(partial, spec)
        return _make(folder, partial, spec, held, environment, report, allow_download)
    except OSError as error:
        raise unwritable("The offline kit cannot be written", error) from error


def _begin(partial: Path, spec: KitSpec) -> None:
    """Make the folders; wheels that were collected for another machine are not gone on with."""
    machine = json.dumps([spec.platform, spec.python_version, spec.build])
    note, wheels = partial / MACHINE, partial / WHEELS
    if wheels.exists() and not (note.is_file() and note.read_bytes() == machine.encode()):
        shutil.rmtree(wheels)
    wheels.mkdir(parents=True, exist_ok=True)
    note.write_bytes(machine.encode())


def _make(
    folder: Path,
    partial: Path,
    spec: KitSpec,
    held: Mapping[str, str],
    environment: Mapping[str, str],
    report: Reporter,
    allow_download: bool,
) -> KitManifest:
    report.stage("packages", 1, 3)
    wheels = _collect_wheels(partial / WHEELS, spec, held, environment, report)
    report.stage("weights", 2, 3)
    encoders = []
    for number, hub_id in enumerate(spec.encoders):
        report.progress(number, len(spec.encoders), "encoder")
        report.check_cancelled()
        encoders.append(copy_weights(hub_id, partial, allow_download=allow_download))
    _remove_others(partial / ENCODERS, encoders)
    report.stage("manifest", 3, 3)
    (partial / "README.txt").write_text(_readme(spec, encoders), encoding="utf-8")
    names = [name for name in list_files(partial) if not name.endswith(".tmp")]
    files = []
    for number, name in enumerate(names):
        report.progress(number, len(names), "file")
        path = partial / name
        files.append(
            KitFile(
                path=name,
                size_bytes=path.stat().st_size,
                sha256=file_sha256(path, lambda _size: report.check_cancelled()),
            )
        )
    manifest = KitManifest(
        created=time.strftime("%Y-%m-%d"),
        python_version=spec.python_version,
        platforms=tuple(platform_tags(spec.platform)),
        requirements=spec.requirements,
        wheels=tuple(sorted(f"{wheel.name}=={wheel.version}" for wheel in wheels)),
        held=tuple(constraint_lines(held)),
        encoders=tuple(encoders),
        files=tuple(files),
    )
    written = partial / MANIFEST
    written.write_text(json.dumps(manifest.to_dict(), indent=1), encoding="utf-8")
    sync(written)
    report.check_cancelled()
    (partial / MACHINE).unlink()
    os.rename(partial, folder)
    return manifest


def platform_tags(platform: str) -> list[str]:
    """The platform and the older ones whose wheels run on it too, as far as pip leaves them out."""
    head, _, rest = platform.partition("_")
    version, _, machine = rest.partition("_")
    minor, _, arch = machine.partition("_")
    if head != "manylinux" or version != "2" or not minor.isdigit():
        return [platform]
    tags = [f"manylinux_2_{number}_{arch}" for number in range(int(minor), 4, -1)]
    for number, name in ((17, "manylinux2014"), (12, "manylinux2010"), (5, "manylinux1")):
        if int(minor) >= number:
            tags.append(f"{name}_{arch}")
    return tags


def _collect_wheels(
    folder: Path,
    spec: KitSpec,
    held: Mapping[str, str],
    environment: Mapping[str, str],
    report: Reporter,
) -> list[Wheel]:
    """The wheels that the other machine lacks, all in `folder` and no others."""
    constraints = folder.parent / "constraints.tmp"
    write_constraints(constraints, held)
    command = _pip_download(folder, spec, constraints, environment)
    wanted = [one for one in spec.requirements if one != TORCH]
    if spec.build is not None and TORCH in spec.requirements:
        _run_pip([*command, "--index-url", f"{spec.torch_index}/{spec.build}", TORCH], report)
        torch = _wheels_in(folder)["torch"]
        wanted.append(f"torch=={torch.version}")
    elif TORCH in spec.requirements:
        wanted.append(TORCH)
    _run_pip([*command, "--find-links", str(folder), *wanted], report)
    for _ in range(ROUNDS):
        wheels = _wheels_in(folder)
        found = closure(spec.requirements, wheels, held, environment)
        if found.conflicts:
            raise SetupError(
                "kit-conflict",
                f"{found.conflicts[0]}",
                "Give the other machine's own list with --constraints.",
            )
        if not found.missing:
            break
        _run_pip([*command, "--no-deps", *found.missing], report)
    else:
        raise SetupError(
            "kit-incomplete",
            f"What the other machine needs could not be found: {', '.join(found.missing)}.",
            "Make the kit on a machine of the same system.",
        )
    constraints.unlink()
    for name, wheel in wheels.items():
        if name not in found.used:  # the other machine has it, or only this one's system needs it
            wheel.file.unlink()
    return [wheel for name, wheel in wheels.items() if name in found.used]


def _wheels_in(folder: Path) -> dict[str, Wheel]:
    """The wheels of a folder by name, of several versions the last that was fetched."""
    files = sorted(folder.glob("*.whl"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    wheels: dict[str, Wheel] = {}
    for file in files:
        wheel = read_wheel(file)
        if wheel.name in wheels:  # left by an interrupted run that took another version
            wheels[wheel.name].file.unlink()
        wheels[wheel.name] = wheel
    return wheels


_PIP = """
import json, sys
other = json.loads(sys.argv.pop(1))
try:
    from pip._vendor.packaging import markers
    own = markers.default_environment
    markers.default_environment = lambda: {**own(), **other}
except Exception:
    pass
from pip._internal.cli.main import main
sys.exit(main())
"""
"""pip that evaluates markers as the other machine would. It has no option for that, and
without it collects for Windows what only Linux needs, in gigabytes; should its insides
change, the check of the wheels completes what it missed."""


def _pip_download(
    folder: Path, spec: KitSpec, constraints: Path, environment: Mapping[str, str]
) -> list[str]:
    platforms = (["--platform", tag] for tag in platform_tags(spec.platform))
    return [
        *(sys.executable, "-c", _PIP, json.dumps(dict(environment))),
        *("download", "--disable-pip-version-check", "--no-input"),
        *("--progress-bar", "off", "--only-binary=:all:", "--dest", str(folder)),
        *("--python-version", spec.python_version, "--implementation", "cp"),
        *(word for pair in platforms for word in pair),
        *("--constraint", str(constraints)),
    ]


def _run_pip(command: list[str], report: Reporter) -> None:
    """Run pip; raises `SetupError` `pip-failed` with its last words, `Cancelled` between lines."""
    said: list[str] = []
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise SetupError("pip-failed", f"pip could not be started ({error.strerror}).") from error
    with process:
        try:
            for line in _lines(process):
                report.check_cancelled()
                said = [*said[-LAST_LINES:], line]
                if line.startswith("Downloading"):
                    report.notice("pip", line)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        report.check_cancelled()  # Ctrl-C ends pip, too: that is no fault of pip's
        wrong = [line for line in said if line.startswith("ERROR")] or said
        raise SetupError(
            "pip-failed",
            "pip could not collect the packages.",
            "\n".join([*wrong, "What was collected stays; repeat the command to go on."]),
        )


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    if process.stdout is not None:
        for line in process.stdout:
            yield line.decode("utf-8", "replace").strip()


def _remove_others(folder: Path, encoders: list[KitEncoder]) -> None:
    """Remove weights that an interrupted run with other encoders left."""
    kept = {Path(encoder.folder).name for encoder in encoders}
    for left in folder.glob("*"):
        if left.name not in kept:
            shutil.rmtree(left)


def _readme(spec: KitSpec, encoders: list[KitEncoder]) -> str:
    weights = ", ".join(encoder.hub_id for encoder in encoders) or "none"
    return f"""Offline kit of SpatialARAnomaly

For Python {spec.python_version} on {spec.platform}; torch build: {spec.build or "of the index"}.
Weights: {weights}.

In 3D Slicer: install the extension, open the module Spatial AR Anomaly, open
"Set-up", click "Install from folder..." and choose this folder.
Elsewhere: spatial-ar-anomaly install-offline FOLDER

Every file is checked against its SHA-256 in {MANIFEST} before anything is
installed. Nothing that Slicer brings is replaced.

What was checked when the kit was made: that the wheels, with what the other
machine was said to have ("held" in {MANIFEST}), meet every requirement by the
markers of that system. Not checked: that they run there (an older system may
lack a library, a GPU driver may be too old for a CUDA build).

The weights are under their own license, which lies beside them.
"""
