"""Errors for the user: what was expected and what was found.

The front ends add what to do, each from its own table of hints by code:
`service.cli.hints` for the command line, `slicerapp.wording.Errors` for the panel.
"""

from functools import partial
from typing import Any

Fact = str | int | float | bool | None
"""A value of an error that a hint may show; JSON has these types."""


class SpatialARError(Exception):
    """A failure that the user can act on.

    Args:
        code: Stable name of the error; the front ends have a hint for each.
        message: What was expected and what was found. It is shown to the user only: it may
            hold the base name of a file the user named, and is never written to models or
            manifests. It names no option and no button.
        facts: Values of this failure that hints show as `{name}`; no paths.

    """

    def __init__(self, code: str, message: str, **facts: Fact) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make it again in another process (Dask's workers and client)."""
        make = partial[SpatialARError](type(self), **self.facts)  # type: ignore[arg-type]
        return make, (self.code, self.message)

    def fill(self, templates: str | tuple[str, ...]) -> str:
        """Fill in the template, or the first of them whose `{fact}`s this error has; else empty."""
        for template in (templates,) if isinstance(templates, str) else templates:
            try:
                return template.format_map(self.facts)
            except KeyError:
                continue
        return ""


class InputError(SpatialARError):
    """A scan or a set of scans cannot be used."""


class SpecError(SpatialARError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class EncoderError(SpatialARError):
    """An encoder is missing, damaged or not a DINOv3."""


class ModelError(SpatialARError):
    """A model file is missing, damaged, too new or does not fit the scan."""


class OutputError(SpatialARError):
    """A result cannot be written to its place."""


class PacsError(SpatialARError):
    """A PACS cannot be reached, or refuses or lacks what is asked for."""


class SetupError(SpatialARError):
    """Packages cannot be installed, or an offline kit cannot be used or made."""


class DeviceError(SpatialARError):
    """The device is not available, or has too little memory."""


class Cancelled(Exception):  # noqa: N818 - an outcome, not an error
    """The user cancelled the job; what can be resumed is on disk."""
