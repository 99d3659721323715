"""Offline kits: packages and weights, collected here and installed on a machine without internet.

uv chooses the versions for the other machine, pip downloads their wheels. The kit
is made in `FOLDER.partial`: an interrupted command leaves it, the next one
resumes from it, and it becomes FOLDER when the kit is complete.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from SpatialARAnomalyLib.engine.cards.encoder_card import DINOV3_NOTICE
from SpatialARAnomalyLib.engine.errors import EncoderError, OutputError, SetupError
from SpatialARAnomalyLib.engine.files import (
    file_sha256,
    partial_folder,
    remove_stale_partials,
    sync,
    unwritable,
)
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.dinov3_license import license_file
from SpatialARAnomalyLib.service.encoders.hub import is_hub_id, publish_commit, repository_folder
from SpatialARAnomalyLib.service.encoders.loading import hub_folder, load_encoder
from SpatialARAnomalyLib.service.setup.kit_manifest import (
    ENCODERS,
    MANIFEST,
    WHEELS,
    KitEncoder,
    KitFile,
    KitManifest,
    check_fits,
    is_system_file,
    list_files,
    verify_kit,
)
from SpatialARAnomalyLib.service.setup.packages import (
    REQUIREMENTS,
    PackageState,
    check_packages,
    constraint_lines,
    held_versions,
    installed_versions,
    write_constraints,
)

SLICER_PYTHON = "3.12"
"""Python version of Slicer 5.10 to 5.13."""

_SLICER_5_12 = """
    certifi==2026.5.20 cffi==2.0.0 chardet==7.4.3 charset-normalizer==3.4.7 cryptography==48.0.0
    dcmqi==0.4.0 deprecated==1.3.1 dicomweb-client==0.61.0 gitdb==4.0.12 gitpython==3.1.50
    highdicom==0.27.0 idna==3.16 numpy==2.4.6 packaging==26.2 pillow==12.2.0 pip==26.1.1
    pycparser==3.0 pydicom==3.0.2 pygithub==2.9.1 pyjpegls==1.5.1 pyjwt==2.13.0 pynacl==1.6.2
    pyparsing==3.3.2 python-dateutil==2.9.0.post0 requests==2.34.2 retrying==1.4.2 scipy==1.17.1
    setuptools==82.0.1 simpleitk==2.5.5 six==1.17.0 smmap==5.0.3 typing-extensions==4.15.0
    urllib3==2.7.0 wheel==0.47.0 wrapt==2.2.1
"""
SLICER_5_12 = dict(pin.split("==") for pin in _SLICER_5_12.split())
"""Versions that Slicer 5.12 brings, by normalized name (`SuperBuild/External_python-*.cmake`)."""

TORCH_INDEX = "https://download.pytorch.org/whl"
"""Package indexes of PyTorch's builds, each under its name: cpu, cu126, …"""

UV_MANYLINUX = (17, 28, *range(31, 41))
"""Minor versions of glibc 2 that uv resolves for."""

UV_OPTIONS = {
    "PIP_INDEX_URL": "--default-index",
    "PIP_EXTRA_INDEX_URL": "--index",
    "PIP_FIND_LINKS": "--find-links",
}
"""uv's options by pip's variables: a site sets its package indexes only once."""

NOTE = "machine.tmp"
"""File of a partial kit that names the machine its wheels are for."""

LAST_LINES = 12
"""Lines of a failed program's output that the error shows."""

LICENSES = ("LICENSE", "LICENSE.txt", "README.md")
"""Names of license files and model cards that are copied with weights."""


@dataclass(frozen=True, kw_only=True)
class KitSpec(Spec):
    """Contents of a kit to make, and the machine it is for."""

    platform: str
    """pip's name of the platform: win_amd64, manylinux_2_28_x86_64, macosx_14_0_arm64."""
    python_version: str = SLICER_PYTHON
    build: str | None = None
    """torch build: `cpu`, `cu126`, …; None takes what the package index has."""
    torch_index: str = TORCH_INDEX
    encoders: tuple[str, ...] = ()
    """Hub ids of weights."""
    requirements: tuple[str, ...] = REQUIREMENTS

    def __post_init__(self) -> None:
        self._require(
            re.fullmatch(r"\d+\.\d+", self.python_version) is not None,
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
    held: Mapping[str, str] = SLICER_5_12,
    allow_download: bool = True,
) -> KitManifest:
    """Collect wheels and weights into a new folder, and return its manifest.

    Args:
        folder: The kit; must not exist.
        spec: Contents of the kit.
        report: Receives the stages packages, weights and manifest.
        held: Versions that the other machine has and keeps, by normalized name.
        allow_download: Whether weights that are not in the hub's cache may be downloaded.

    Raises:
        SetupError: `kit-platform`, `uv-missing`, `kit-unresolved` or `pip-failed`.
        EncoderError: Weights cannot be obtained.
        OutputError: The folder exists or cannot be written.
        Cancelled: The user cancelled; the partial kit stays.
    """
    uv_platform(spec.platform)  # refuses an unknown platform before anything is written
    folder = folder.absolute()
    if folder.exists():
        raise OutputError("output-exists", f"'{folder.name}' exists already.")
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        _prepare_folder(partial, spec)
        report.stage("packages", 1, 3)
        wheels = _collect_wheels(partial, spec, held, report)
        report.stage("weights", 2, 3)
        encoders = []
        for number, hub_id in enumerate(spec.encoders):
            report.progress(number, len(spec.encoders), "encoder")
            report.check_cancelled()
            encoders.append(_copy_weights(hub_id, partial, allow_download=allow_download))
        _keep_only(partial / ENCODERS, {Path(one.folder).name for one in encoders})
        report.stage("manifest", 3, 3)
        (partial / "README.txt").write_text(_readme(spec, encoders), encoding="utf-8")
        manifest = KitManifest(
            created=time.strftime("%Y-%m-%d"),
            python_version=spec.python_version,
            platforms=tuple(platform_tags(spec.platform)),
            requirements=spec.requirements,
            wheels=tuple(wheels),
            held=tuple(constraint_lines(held)),
            encoders=tuple(encoders),
            files=_hash_files(partial, report),
        )
        written = partial / MANIFEST
        written.write_text(json.dumps(manifest.to_dict(), indent=1), encoding="utf-8")
        sync(written)
        report.check_cancelled()
        for temporary in partial.glob("*.tmp"):
            temporary.unlink()
        os.rename(partial, folder)
    except OSError as error:
        raise unwritable("The offline kit cannot be written", error) from error
    return manifest


def uv_platform(platform: str) -> tuple[str, dict[str, str]]:
    """Translate pip's name of a platform into uv's, and the variables that uv needs for it.

    Raises `SetupError` `kit-platform` for a platform without builds of torch.
    """
    windows = {"win_amd64": "x86_64-pc-windows-msvc", "win_arm64": "aarch64-pc-windows-msvc"}
    if platform in windows:
        return windows[platform], {}
    if mac := re.fullmatch(r"macosx_(\d+)_(\d+)_(arm64|x86_64)", platform):
        machine = "aarch64" if mac[3] == "arm64" else mac[3]
        return f"{machine}-apple-darwin", {"MACOSX_DEPLOYMENT_TARGET": f"{mac[1]}.{mac[2]}"}
    linux = re.fullmatch(r"manylinux_2_(\d+)_(x86_64|aarch64)", platform)
    if linux and int(linux[1]) >= min(UV_MANYLINUX):
        minor = max(minor for minor in UV_MANYLINUX if minor <= int(linux[1]))
        return f"{linux[2]}-manylinux_2_{minor}", {}
    raise SetupError("kit-platform", f"The platform {platform!r} is not known.")


def platform_tags(platform: str) -> list[str]:
    """List a platform's tag and those of older Linuxes; pip itself adds older versions of macOS."""
    linux = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform)
    if not linux:
        return [platform]
    newest, machine = int(linux[1]), linux[2]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 4, -1)]
    names = ((17, "manylinux2014"), (12, "manylinux2010"), (5, "manylinux1"))
    return tags + [f"{name}_{machine}" for minor, name in names if newest >= minor]


def _prepare_folder(partial: Path, spec: KitSpec) -> None:
    """Make a partial kit's folders; wheels left for another machine are removed."""
    machine = json.dumps([spec.platform, spec.python_version, spec.build]).encode()
    note, wheels = partial / NOTE, partial / WHEELS
    if wheels.exists() and not (note.is_file() and note.read_bytes() == machine):
        shutil.rmtree(wheels)
    wheels.mkdir(parents=True, exist_ok=True)
    note.write_bytes(machine)


def _collect_wheels(
    partial: Path, spec: KitSpec, held: Mapping[str, str], report: Reporter
) -> list[str]:
    """Download the wheels that the other machine lacks, and return their `name==version`."""
    folder, lock = partial / WHEELS, partial / "lock.tmp"
    _resolve(lock, spec, held, report)
    wanted = lock.read_text(encoding="utf-8").split()
    platforms = (("--platform", tag) for tag in platform_tags(spec.platform))
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"),
        *("--progress-bar", "off", "--no-deps", "--only-binary=:all:", "--dest", str(folder)),
        *("--python-version", spec.python_version, "--implementation", "cp"),
        *(word for pair in platforms for word in pair),
        *(("--extra-index-url", _torch_index(spec)) if spec.build else ()),
        *("--requirement", str(lock)),
    ]
    if wanted:
        text = "pip could not download the packages; those that were downloaded are kept."
        _run(command, report, "pip-failed", text)
    kept = {
        file.name
        for file in folder.glob("*.whl")
        if "==".join(map(str, parse_wheel_filename(file.name)[:2])) in wanted
    }
    _keep_only(folder, kept)
    return wanted


def _resolve(lock: Path, spec: KitSpec, held: Mapping[str, str], report: Reporter) -> None:
    """Write the versions that the other machine needs beside its own, one a line.

    uv evaluates markers and tags for the other machine, which pip cannot, and keeps
    the versions of an existing lock file, so that a resumed kit downloads no others.
    """
    programs = (sysconfig.get_path("scripts"), os.environ.get("PATH", ""))
    uv = shutil.which("uv", path=os.pathsep.join(programs))
    if uv is None:
        raise SetupError("uv-missing", "An offline kit is made with uv, which is not installed.")
    platform, variables = uv_platform(spec.platform)
    with tempfile.TemporaryDirectory(prefix="spatial-ar-") as work:
        constraints, project = Path(work) / "constraints.txt", Path(work) / "pyproject.toml"
        write_constraints(constraints, held)
        project.write_text(_project(spec), encoding="utf-8")
        command = [
            *(uv, "pip", "compile", str(project), "--output-file", str(lock), "--quiet"),
            *("--no-header", "--no-annotate", "--color", "never", "--system-certs"),
            *("--only-binary", ":all:", "--constraint", str(constraints)),
            *(word for name in sorted(held) for word in ("--no-emit-package", name)),
            *("--python-platform", platform, "--python-version", spec.python_version),
            *("--python", sys.executable, "--no-python-downloads"),
            *_index_options(),
        ]
        if "PIP_CERT" in os.environ:
            variables["SSL_CERT_FILE"] = os.environ["PIP_CERT"]
        text = "uv found no versions that fit the other machine and its packages."
        _run(command, report, "kit-unresolved", text, os.environ | variables)


def _index_options() -> list[str]:
    """Translate pip's settings of package indexes for uv, which does not read them."""
    values = ((option, os.environ.get(name, "")) for name, option in UV_OPTIONS.items())
    options = [word for option, value in values for one in value.split() for word in (option, one)]
    no_index = os.environ.get("PIP_NO_INDEX", "").lower() not in ("", "0", "false", "no", "off")
    return ["--no-index", *options] if no_index else options


def _torch_index(spec: KitSpec) -> str:
    return f"{spec.torch_index}/{spec.build}"


def _project(spec: KitSpec) -> str:
    """Write a pyproject.toml that takes torch from the index of its build.

    JSON strings are valid TOML strings.
    """
    lines = [
        *("[project]", 'name = "kit"', 'version = "0"'),
        f"dependencies = {json.dumps(spec.requirements)}",
    ]
    if spec.build is not None:
        lines += [
            *("[tool.uv.sources]", 'torch = { index = "torch" }'),
            *("[[tool.uv.index]]", 'name = "torch"', "explicit = true"),
            f"url = {json.dumps(_torch_index(spec))}",
        ]
    return "\n".join([*lines, ""])


def _run(
    command: list[str],
    report: Reporter,
    code: str,
    text: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program; its downloads become notices.

    Raises `SetupError` with the program's last lines if it fails, and `Cancelled`.
    """
    printed: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise SetupError(code, f"{text} It did not start ({error.strerror}).") from error
    with process:
        try:
            for line in process.stdout or ():
                report.check_cancelled()
                printed = [*printed[-LAST_LINES:], line.rstrip()]
                if line.startswith("Downloading"):
                    report.notice("pip", line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        report.check_cancelled()  # Ctrl-C ends the program too, which is not a failure
        if any(line.startswith("ERROR") for line in printed):
            # pip indents the requirements that disagree.
            printed = [line for line in printed if line.startswith(("ERROR", "    "))]
        raise SetupError(code, "\n".join([text, *printed]))


def _keep_only(folder: Path, kept: Iterable[str]) -> None:
    """Remove what an interrupted run with other settings left in a folder."""
    for left in folder.glob("*"):
        if left.name not in kept:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _hash_files(partial: Path, report: Reporter) -> tuple[KitFile, ...]:
    names = [name for name in list_files(partial) if not name.endswith(".tmp")]
    files = []
    for number, name in enumerate(names):
        report.progress(number, len(names), "file")
        path = partial / name
        sha256 = file_sha256(path, lambda _size: report.check_cancelled())
        files.append(KitFile(path=name, size_bytes=path.stat().st_size, sha256=sha256))
    return tuple(files)


def _readme(spec: KitSpec, encoders: list[KitEncoder]) -> str:
    weights = ", ".join(encoder.hub_id for encoder in encoders) or "none"
    return f"""Offline kit of SpatialARAnomaly

For Python {spec.python_version} on {spec.platform}; torch build: {spec.build or "of the index"}.
Weights: {weights}.

In 3D Slicer: install the extension, open the module Spatial AR Anomaly, open
"Set-up", click "Install from folder..." and choose this folder.
Elsewhere: spatial-ar-anomaly install-offline FOLDER

Every file is checked against its SHA-256 in {MANIFEST} before anything is
installed. Packages that Slicer brings are not replaced.

The wheels meet every requirement on that system, together with the packages
assumed there ("held" in {MANIFEST}). Whether they run there is not checked: an
older system may lack a library, or a GPU driver may be too old for a CUDA build.

The weights are under their own license, which is in their folder.
"""


def install_kit(folder: Path, report: Reporter, *, pip: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Verify a kit, then install its packages and weights into the Python that runs this.

    Only packages that are missing or too old change. `pip` is the command of another
    Python's pip. In Slicer the panel installs a kit.
    Returns the hub ids of the weights. Raises `SetupError` if the kit is damaged or for
    another machine, or if pip fails, and `EncoderError` if weights cannot be loaded.
    """
    manifest = verify_kit(folder, report)
    check_fits(manifest)
    installed = installed_versions()
    missing = tuple(
        one.requirement
        for one in check_packages(installed, requirements=manifest.requirements)
        if one.state is not PackageState.READY
    )
    if missing:
        with tempfile.TemporaryDirectory(prefix="spatial-ar-") as work:
            constraints = Path(work) / "constraints.txt"
            held = held_versions(installed, (Requirement(one).name for one in missing))
            write_constraints(constraints, held)
            command = [
                *(*(pip or (sys.executable, "-m", "pip")), "install", "--no-input", "--no-index"),
                *("--find-links", str(folder / WHEELS), "--only-binary=:all:"),
                *("--constraint", str(constraints), *missing),
            ]
            _run(command, report, "pip-failed", "pip could not install the kit's packages.")
    return install_weights(folder, manifest, report) if manifest.encoders else ()


def _copy_weights(hub_id: str, kit: Path, *, allow_download: bool) -> KitEncoder:
    """Copy weights, configuration and license into a kit; files already there stay.

    Raises `EncoderError` if the weights are not in the hub's cache and cannot be downloaded.
    """
    if not is_hub_id(hub_id):
        raise EncoderError(
            "encoder-missing",
            "A kit takes weights by hub id, such as timm/vit_small_patch16_dinov3.lvd1689m; "
            f"found '{hub_id}'.",
        )
    source = hub_folder(hub_id, allow_download=allow_download)
    target = kit / ENCODERS / f"{hub_id.replace('/', '--')}--{source.name[:12]}"
    target.mkdir(parents=True, exist_ok=True)
    (target / "NOTICE.txt").write_text(
        f"{hub_id}\nhttps://huggingface.co/{hub_id}\n\n{DINOV3_NOTICE}\n", encoding="utf-8"
    )
    # Redistributed weights need their license; the hub's cache may lack it.
    shutil.copyfile(license_file(), target / "LICENSE.md")
    for file in source.iterdir():
        copied = target / file.name
        size = file.stat().st_size
        wanted = file.name in LICENSES or file.suffix in (".safetensors", ".json")
        if wanted and not (copied.is_file() and copied.stat().st_size == size):
            partial = copied.with_name(f"{copied.name}.tmp")
            shutil.copyfile(file, partial)  # follows the cache's symbolic links
            os.replace(partial, copied)
    return KitEncoder(
        hub_id=hub_id, revision=source.name, folder=target.relative_to(kit).as_posix()
    )


def install_weights(kit: Path, manifest: KitManifest, report: Reporter) -> tuple[str, ...]:
    """Copy a verified kit's weights into this machine's hub cache, load each, return their ids.

    Afterwards the ids, and models trained on these weights, work without a network.
    Raises `EncoderError` if weights cannot be loaded, `OutputError` if they cannot be stored.
    """
    from SpatialARAnomalyLib.engine.device import Device, resolve_device

    device = resolve_device(Device.CPU)
    report.stage("weights", 1, 1)
    for number, encoder in enumerate(manifest.encoders):
        report.progress(number, len(manifest.encoders), "encoder")
        report.check_cancelled()
        try:
            _copy_into_cache(kit / encoder.folder, encoder)
        except OSError as error:
            text = "The weights cannot be stored in the hub's cache folder"
            raise unwritable(text, error, code="encoder-cache") from error
        loaded = load_encoder(encoder.hub_id, device=device, allow_download=False)
        registry.remember(loaded.card.weights_sha256, encoder.hub_id)
    report.progress(len(manifest.encoders), len(manifest.encoders), "encoder")
    return tuple(encoder.hub_id for encoder in manifest.encoders)


def _copy_into_cache(source: Path, encoder: KitEncoder) -> None:
    """Copy into the cache in the hub's layout; the reference, which makes it visible, last."""
    repository = repository_folder(encoder.hub_id)
    snapshot = repository / "snapshots" / encoder.revision
    snapshot.mkdir(parents=True, exist_ok=True)
    remove_stale_partials(repository)
    with partial_folder(repository) as work:
        for file in source.iterdir():
            place = snapshot / file.name
            if file.is_file() and not is_system_file(file.name) and not place.exists():
                copied = Path(shutil.copyfile(file, work / "new"))
                sync(copied)
                os.replace(copied, place)
    publish_commit(encoder.hub_id, encoder.revision)
