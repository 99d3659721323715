"""The worker's jobs on encoders: get, check, add, remove."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.device import Device, require_torch
from ..engine.errors import SpecError
from ..engine.progress import Reporter
from ..engine.specs import SliceSpec, Spec
from .encoder_library import add_encoder, get_encoder, remove_encoder
from .worker_protocol import TOKEN


@dataclass(frozen=True, kw_only=True)
class EncoderInputs(Spec):
    """Which encoder."""

    source: str
    """Hub id, folder or file."""


@dataclass(frozen=True, kw_only=True)
class CheckSpec(Spec):
    """How to try an encoder."""

    size_px: int = SliceSpec.size_px
    device: Device = Device.AUTO


def get(inputs: Mapping[str, Any], report: Reporter) -> dict[str, Any]:
    """Fetch weights; besides `source` the inputs may hold a token, which nothing repeats."""
    named = dict(inputs)
    token = named.pop(TOKEN, None)
    if token is not None and not isinstance(token, str):
        raise SpecError("spec-type", f"{TOKEN} must be text.")
    source = EncoderInputs.from_dict(named).source
    folder = get_encoder(source, report, token)
    return {"source": source, "revision": folder.name}


def check(inputs: EncoderInputs, spec: CheckSpec, report: Reporter) -> dict[str, Any]:
    """Load an encoder and embed a test slice, without a network."""
    require_torch()
    from .encoder_check import check_encoder

    report.stage("check", 1, 1)
    return check_encoder(inputs.source, spec.size_px, spec.device, False, report).to_dict()


def add(inputs: EncoderInputs, report: Reporter) -> dict[str, Any]:
    """Verify a folder or file of the user's and remember it."""
    require_torch()
    report.stage("check", 1, 1)
    card = add_encoder(Path(inputs.source))
    return {"name": card.name, "architecture": card.architecture}


def remove(inputs: EncoderInputs) -> dict[str, Any]:
    """Remove an encoder from the hub's cache, or forget one of the user's."""
    return {"freed_bytes": remove_encoder(inputs.source)}
