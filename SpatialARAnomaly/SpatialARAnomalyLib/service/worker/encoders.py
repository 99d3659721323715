"""The worker's jobs on encoders: get, check, add, remove."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.device import Device, require_torch
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import SliceSpec, Spec
from SpatialARAnomalyLib.service.encoders.library import (
    add_encoder,
    check_encoder,
    remove_encoder,
)
from SpatialARAnomalyLib.service.encoders.loading import hub_folder
from SpatialARAnomalyLib.service.redaction import TOKEN


@dataclass(frozen=True, kw_only=True)
class EncoderInputs(Spec):
    """An encoder."""

    source: str
    """Hub id, folder or file."""


@dataclass(frozen=True, kw_only=True)
class GetInputs(EncoderInputs):
    """An encoder, and the user's access token of the hub, which no event or log repeats."""

    token: str | None = field(default=None, repr=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GetInputs":
        """Read the inputs; an error does not quote a token of the wrong type."""
        if not isinstance(values.get(TOKEN), str | None):
            raise SpecError("spec-type", f"{TOKEN} must be text.")
        return super().from_dict(values)


@dataclass(frozen=True, kw_only=True)
class CheckSpec(Spec):
    """Settings of a check."""

    size_px: int = SliceSpec.size_px
    """Side of the test slice in pixels."""
    device: Device = Device.AUTO


def get(inputs: GetInputs, report: Reporter) -> dict[str, Any]:
    """Download weights from the hub."""
    folder = hub_folder(inputs.source, allow_download=True, report=report, token=inputs.token)
    return {"source": inputs.source, "revision": folder.name}


def check(inputs: EncoderInputs, spec: CheckSpec, report: Reporter) -> dict[str, Any]:
    """Load an encoder without a network and embed a test slice."""
    require_torch()
    report.stage("check", 1, 1)
    return check_encoder(inputs.source, spec.size_px, spec.device, False, report).to_dict()


def add(inputs: EncoderInputs, report: Reporter) -> dict[str, Any]:
    """Verify a folder or file of the user and add it to the library."""
    require_torch()
    report.stage("check", 1, 1)
    card = add_encoder(Path(inputs.source))
    return {"name": card.name, "architecture": card.architecture}


def remove(inputs: EncoderInputs) -> dict[str, Any]:
    """Remove an encoder from the hub's cache, or a folder of the user from the library."""
    return {"freed_bytes": remove_encoder(inputs.source)}
