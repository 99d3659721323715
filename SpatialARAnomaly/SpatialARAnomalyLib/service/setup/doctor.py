"""Diagnosis: whether this machine can run the program, and how to fix what is wrong."""

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
from SpatialARAnomalyLib.service.user_folder import models_folder, user_folder

PROBE_S = 300.0
"""Seconds after which a probe counts as hung: torch from a cold network disk takes a minute."""

LEAST_FREE_BYTES = 2 * 10**9
"""Free disk space in bytes that the tokens of a few scans take."""

LEAST_MEMORY_BYTES = 4 * 10**9
"""Memory in bytes below which the smallest encoder and a scan hardly fit."""

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")

INSTALL = 'pip install "spatial-ar-anomaly[torch]"'

_PROBE = (
    "import sys, json; sys.path.insert(0, sys.argv[1]); "
    "from SpatialARAnomalyLib.service.worker.setup import probe; "
    "print('\\n' + json.dumps(probe()))"
)


@dataclass(frozen=True, kw_only=True)
class Finding(Spec):
    """The state of one part of the machine."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    """Instructions to fix it, if it is not ok."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Spec):
    """The state of all parts."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True if all parts are ok."""
        return all(one.ok for one in self.findings)


def probe_in_child(python: str = sys.executable, timeout_s: float = PROBE_S) -> dict[str, Any]:
    """Probe in a child process, so that a torch that crashes ends only that.

    Returns the result of `worker.setup.probe`, or the key `failed` with the reason.
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
        return {"failed": f"It gave no answer within {timeout_s:g} s."}
    except OSError as error:
        return {"failed": f"Python could not be started ({error.strerror})."}
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        probed = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"failed": f"It ended with exit code {done.returncode} and without an answer."}
    return probed if isinstance(probed, dict) else {"failed": "Its answer is not a JSON object."}


def diagnose(probed: Mapping[str, Any] | None = None) -> Diagnosis:
    """Check Python, packages, devices, memory, disk and folders, without network access.

    `probed` is a probe's result; by default a child process makes one.
    """
    probed = probe_in_child() if probed is None else probed
    new_enough = sys.version_info >= (3, 11)
    findings = [
        Finding(
            name="Python",
            ok=new_enough,
            found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            remedy="" if new_enough else "Use Python 3.11 or later.",
        ),
        *_packages(probed),
        *map(_device, probed.get("devices") or ()),
        _disk(),
        _writable("settings folder", user_folder()),
        _writable("models folder", models_folder()),
        _network(),
    ]
    return Diagnosis(findings=tuple(findings))


def no_torch_reason(system: str | None = None, machine: str | None = None) -> str:
    """Explain why a platform has no recent torch; '' for all other platforms."""
    if (system or platform.system()) != "Darwin" or (machine or platform.machine()) != "x86_64":
        return ""
    return (
        "PyTorch is no longer made for macOS on x86-64 (2.2 was the last, for an older numpy), "
        "so this Python cannot compute. Use another Python of this machine, one for arm64 with "
        "the packages installed; or compute on another machine."
    )


def _packages(probed: Mapping[str, Any]) -> list[Finding]:
    if "failed" in probed:
        return [
            Finding(
                name="packages",
                ok=False,
                found=f"Loading them in a child process failed. {probed['failed']}",
                remedy=f"Reinstall them: {INSTALL}",
            )
        ]
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
        if remedy and check.package == "torch":
            remedy = no_torch_reason() or remedy
        findings.append(Finding(name=check.package, ok=not remedy, found=found, remedy=remedy))
    return findings


def _device(device: Mapping[str, Any]) -> Finding:
    size, free = device["memory_bytes"], device["free_bytes"]
    memory = "memory unknown" if size is None else f"{size_text(size)} of memory"
    memory += "" if free is None else f", {size_text(free)} free"
    enough = device["device"] != "cpu" or size is None or size >= LEAST_MEMORY_BYTES
    return Finding(
        name=f"device {device['device']}",
        ok=enough,
        found=f"{device['name']}, {memory}",
        remedy="" if enough else f"Use a machine with {size_text(LEAST_MEMORY_BYTES)} or more.",
    )


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
        remedy="" if enough else f"Free disk space: {size_text(LEAST_FREE_BYTES)} are needed.",
    )


def _writable(name: str, folder: Path) -> Finding:
    """Check that a folder can be written or made; the finding contains no path."""
    existing = _nearest(folder)
    ok = os.path.isdir(existing) and os.access(existing, os.W_OK)
    able = "can be written" if existing == folder else "can be made"
    return Finding(
        name=name,
        ok=ok,
        found=able if ok else "cannot be written",
        remedy="" if ok else "Set SPATIAL_AR_ANOMALY_HOME to a folder that can be written.",
    )


def _network() -> Finding:
    """Describe the network settings of the environment, without their values."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    settings = {
        "a proxy is set": any(os.environ.get(name) for name in PROXIES),
        "HF_HUB_OFFLINE forbids downloads from the hub": offline,
        "another hub is set (HF_ENDPOINT)": os.environ.get("HF_ENDPOINT"),
        "another package index is set (PIP_INDEX_URL)": os.environ.get("PIP_INDEX_URL"),
        "certificates for pip are set (PIP_CERT)": os.environ.get("PIP_CERT"),
    }
    found = "; ".join(text for text, is_set in settings.items() if is_set)
    found = f"{found or 'no proxy or other index is set'} (the network was not accessed)"
    return Finding(name="network", ok=True, found=found)
