"""The report that a maintainer needs to help: versions, devices, kinds of models; no patient data.

No names, paths or values of the user's get in: a model may be named after a patient or a site.
"""

import locale
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.files import replacing, unwritable
from SpatialARAnomalyLib.service.encoders.catalog import KNOWN
from SpatialARAnomalyLib.service.encoders.hub import cached_folder
from SpatialARAnomalyLib.service.models.listing import ModelEntry, list_models
from SpatialARAnomalyLib.service.models.wording import network_text
from SpatialARAnomalyLib.service.setup.doctor import Diagnosis
from SpatialARAnomalyLib.service.setup.packages import installed_versions
from SpatialARAnomalyLib.service.user_folder import HOME_VARIABLE, models_folder

PACKAGES = (
    "filelock", "huggingface-hub", "jaxtyping", "matplotlib", "nibabel", "numpy", "packaging",
    "pip", "pydicom", "rich", "safetensors", "scikit-image", "scikit-learn", "scipy", "setuptools",
    "simpleitk", "slicerio", "tokenizers", "torch", "torchvision", "transformers", "truststore",
    "typer", "uv",
)  # fmt: skip
"""Packages whose versions are reported."""

VARIABLES = (
    HOME_VARIABLE, "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE",
    "HF_TOKEN", "HTTPS_PROXY", "HTTP_PROXY", "OMP_NUM_THREADS", "PIP_CERT", "PIP_INDEX_URL",
    "PYTHONHOME", "PYTHONPATH", "SSL_CERT_FILE",
)  # fmt: skip
"""Environment variables whose presence is reported, not their values."""


def report_text(diagnosis: Diagnosis) -> str:
    """Return the report as Markdown."""
    sections = {
        "Program": _program(),
        "Diagnosis": _findings(diagnosis),
        "Packages": _packages(),
        "Models": _models(),
        "Encoders on this machine": _encoders(),
        "Environment variables that are set": [name for name in VARIABLES if os.environ.get(name)],
    }
    parts = ["# Report of spatial-ar-anomaly doctor"]
    for title, lines in sections.items():
        parts.append("\n".join([f"## {title}\n", *(f"- {one}" for one in lines or ["none"])]))
    return "\n\n".join(parts) + "\n"


def write_report(file: Path, diagnosis: Diagnosis, *, overwrite: bool) -> None:
    """Write the report to a file, whole or not at all.

    Raises:
        OutputError: `output-exists` for another file of that name, unless `overwrite`, or
            `output-unwritable`.
    """
    if os.path.lexists(file) and not overwrite:
        raise OutputError("output-exists", f"{file.name!r} exists already.")
    try:
        with replacing(file) as partial:
            partial.write_text(report_text(diagnosis), encoding="utf-8")
    except OSError as error:
        raise unwritable("The report cannot be written", error) from error


def _program() -> list[str]:
    return [
        f"spatial-ar-anomaly {__version__}",
        f"Python {platform.python_version()} ({platform.python_implementation()})",
        f"{platform.system()} {platform.release()} {platform.machine()}, "
        f"{os.cpu_count()} processors",
        f"file names in {sys.getfilesystemencoding()}, texts in {locale.getencoding()}",
    ]


def _findings(diagnosis: Diagnosis) -> Iterator[str]:
    for one in diagnosis.findings:
        yield f"{'ok' if one.ok else 'PROBLEM'} {one.name}: {one.found} {one.remedy}".rstrip()


def _packages() -> list[str]:
    installed = installed_versions()
    return [f"{name} {installed[name]}" for name in PACKAGES if name in installed]


def _models() -> list[str]:
    """Describe the models of the models folder by their kinds; equal ones are counted."""
    kinds = Counter(map(_kind, list_models(models_folder())))
    return [f"{number} × {kind}" for kind, number in sorted(kinds.items())]


def _kind(entry: ModelEntry) -> str:
    if entry.card is None:
        return f"cannot be used: {entry.error.code if entry.error else 'unknown'}"
    card = entry.card
    encoder = f"{card.encoder.architecture}, {card.encoder.precision}"
    scans = len(card.normals.training_sha256), card.calibration.volumes
    return (
        f"version {card.engine_version}, {card.modality}, {card.slices.plane}, "
        f"{card.slices.size_px} px of {card.slices.pixel_mm:.3g} mm, region {card.region}; "
        f"{encoder}; {network_text(card.autoregressive)}; {scans[0]} normal scans trained on, "
        f"{scans[1]} held out"
    )


def _encoders() -> list[str]:
    return [one.hub_id for one in KNOWN if cached_folder(one.hub_id) is not None]
