"""The errors a user can meet: what was expected and what was found.

What to do about an error is said by the front ends, each in a table of hints by
code: `service.cli.hints` for the command line, `slicerapp.wording.Errors` for the panel.
"""

Fact = str | int | float | bool | None
"""A value of an error that a hint may show; JSON has these types."""


class SpatialARError(Exception):
    """A failure that the user can act on.

    Args:
        code: A stable slug for programs; the front ends have a hint for each.
        message: What was expected and what was found. It is for the user's eyes: it may
            hold the base name of a file the user named, and never goes into models or
            manifests. It names no option and no button.
        hint: Transition: of raise sites that are not converted yet. Front ends show it only
            where no hint of their table fits.
        facts: Values of this failure for the hints, which show them as `{name}`; no paths.

    """

    def __init__(self, code: str, message: str, hint: str = "", **facts: Fact) -> None:
        super().__init__(f"{message} {hint}".strip())
        self.code = code
        self.message = message
        self.hint = hint
        self.facts = facts

    def fill(self, *templates: str) -> str:
        """Fill in the first template whose `{fact}`s this error has; empty where none fits."""
        for template in templates:
            try:
                return template.format_map(self.facts)
            except KeyError:
                continue
        return ""


class InputError(SpatialARError):
    """A volume or a set of volumes cannot be used."""


class SpecError(SpatialARError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class EncoderError(SpatialARError):
    """An encoder is missing, damaged or not a DINOv3."""


class ModelError(SpatialARError):
    """A model file is missing, damaged, too new or does not fit the volume."""


class OutputError(SpatialARError):
    """A result cannot be written where it was asked for."""


class SetupError(SpatialARError):
    """Packages cannot be installed, or an offline kit cannot be used or made."""


class DeviceError(SpatialARError):
    """The device asked for is not there, or has too little memory."""


class Cancelled(Exception):  # noqa: N818 - an outcome, not an error
    """The user asked to stop; what can be resumed is on disk."""
