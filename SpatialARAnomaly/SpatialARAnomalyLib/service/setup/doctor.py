"""Whether this machine can do what the program is for, and what to do where it cannot."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.setup.packages import (
    PackageState,
    check_packages,
    free_bytes,
    installed_versions,
)
from SpatialARAnomalyLib.service.text import size_text
from SpatialARAnomalyLib.service.user_folder import (
    models_folder,
    user_folder,
)

PROBE_S = 300.0
"""A probe that takes longer has hung: loading torch from a cold network disk takes a minute."""

LEAST_FREE_BYTES = 2 * 10**9
"""Room that an embedding of some scans takes."""

LEAST_MEMORY_BYTES = 4 * 10**9
"""Memory below which the smallest encoder and a scan hardly fit."""

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")

INSTALL = 'pip install "spatial-ar-anomaly[torch]"'

_PROBE = (
    "import sys, json; sys.path.insert(0, sys.argv[1]); "
    "from SpatialARAnomalyLib.service.worker.setup import probe; "
    "print('\\n' + json.dumps(probe()))"
)


@dataclass(frozen=True, kw_only=True)
class Finding(Spec):
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    """What to do, where it is not as it should be."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Spec):
    """All that was looked at."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(one.ok for one in self.findings)


def probe_in_child(python: str = sys.executable, timeout_s: float = PROBE_S) -> dict[str, Any]:
    """What a probe says, of a process of its own: a torch that crashes takes only that down.

    The key `failed` alone, with a sentence, where it said nothing.
    """
    library = str(Path(__file__).resolve().parents[3])
    try:
        done = subprocess.run(
            [python, "-P", "-c", _PROBE, library],
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"It said nothing for {timeout_s:g} s."}
    except OSError as error:
        return {"failed": f"Python could not be started ({error.strerror})."}
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"failed": f"It ended with exit code {done.returncode} before it said anything."}
    return said if isinstance(said, dict) else {"failed": "It said no object."}


def diagnose(probed: Mapping[str, Any] | None = None) -> Diagnosis:
    """Look at Python, packages, devices, memory, disk and folders; downloads nothing.

    `probed` is a probe's result; by default one is made in a child process.
    """
    probed = probe_in_child() if probed is None else probed
    findings = [
        Finding(
            name="Python",
            ok=sys.version_info >= (3, 11),
            found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            remedy="" if sys.version_info >= (3, 11) else "Use Python 3.11 or later.",
        ),
        *_packages(probed),
        *_machine(probed),
        _disk(),
        _writable("settings folder", user_folder()),
        _writable("models folder", models_folder()),
        _network(),
    ]
    return Diagnosis(findings=tuple(findings))


def why_no_torch_here(system: str | None = None, machine: str | None = None) -> str:
    """The sentence for a platform for which there is no recent torch; '' for all others."""
    if (system or platform.system()) != "Darwin" or (machine or platform.machine()) != "x86_64":
        return ""
    return (
        "PyTorch is no longer made for macOS on x86-64 (2.2 was the last, for an older numpy), "
        "so this Python cannot compute. It can use another Python of this machine, one for "
        "arm64 with the packages installed; or compute on another machine."
    )


def _packages(probed: Mapping[str, Any]) -> list[Finding]:
    if "failed" in probed:
        return [
            Finding(
                name="packages",
                ok=False,
                found=f"The trial in a process of its own failed. {probed['failed']}",
                remedy=f"Install anew: {INSTALL}",
            )
        ]
    impossible = why_no_torch_here()
    findings = []
    for check in check_packages(installed_versions(), probed["import_errors"]):
        needed = check.needed or "any version"
        found, remedy = f"{check.found} (needed: {needed})", ""
        match check.state:
            case PackageState.MISSING:
                found = f"not installed (needed: {needed})"
                remedy = f"Install it: {INSTALL}"
            case PackageState.OTHER_VERSION:
                remedy = f"Install another version: pip install '{check.requirement}'"
            case PackageState.BROKEN:
                found = f"{check.found or 'in part'}, cannot be loaded: {check.error}"
                remedy = f"pip uninstall {check.package}, then install it again: {INSTALL}"
        if impossible and check.package == "torch" and remedy:
            remedy = impossible
        ok = check.state is PackageState.READY
        findings.append(Finding(name=check.package, ok=ok, found=found, remedy=remedy))
    return findings


def _machine(probed: Mapping[str, Any]) -> list[Finding]:
    devices = probed.get("devices") or []
    findings = []
    for device in devices:
        size, free = device["memory_bytes"], device["free_bytes"]
        memory = "memory unknown" if size is None else f"{size_text(size)} of memory"
        memory += "" if free is None else f", {size_text(free)} free"
        enough = device["device"] != "cpu" or size is None or size >= LEAST_MEMORY_BYTES
        findings.append(
            Finding(
                name=f"device {device['device']}",
                ok=enough,
                found=f"{device['name']}, {memory}",
                remedy=""
                if enough
                else f"Use a machine with {size_text(LEAST_MEMORY_BYTES)} or more.",
            )
        )
    return findings


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(one for one in (folder, *folder.parents) if os.path.exists(one))


def _disk() -> Finding:
    free = free_bytes(_nearest(user_folder()))
    enough = free is None or free >= LEAST_FREE_BYTES
    return Finding(
        name="disk",
        ok=enough,
        found="free space unknown" if free is None else f"{size_text(free)} free",
        remedy="" if enough else f"Free some: {size_text(LEAST_FREE_BYTES)} are needed.",
    )


def _writable(name: str, folder: Path) -> Finding:
    """Whether a folder, or the nearest above it that exists, can be written; names no place."""
    there = _nearest(folder)
    ok = os.path.isdir(there) and os.access(there, os.W_OK)
    exists = "can be written" if there == folder else "can be made"
    return Finding(
        name=name,
        ok=ok,
        found=exists if ok else "cannot be written",
        remedy="" if ok else "Set SPATIAL_AR_ANOMALY_HOME to a folder that can be written.",
    )


def _network() -> Finding:
    """What the environment says of the network; asks no other machine."""
    said = []
    if any(os.environ.get(name) for name in PROXIES):
        said.append("a proxy is set")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        said.append("HF_HUB_OFFLINE keeps the hub from being asked")
    for name, what in (
        ("HF_ENDPOINT", "another hub is set (HF_ENDPOINT)"),
        ("PIP_INDEX_URL", "another package index is set (PIP_INDEX_URL)"),
        ("PIP_CERT", "certificates for pip are set (PIP_CERT)"),
    ):
        if os.environ.get(name):
            said.append(what)
    return Finding(
        name="network",
        ok=True,
        found=("; ".join(said) or "no proxy or other index is set") + " (nothing was asked)",
    )
