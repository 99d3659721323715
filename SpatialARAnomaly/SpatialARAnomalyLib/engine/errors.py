"""The errors a user can meet: what was expected, what was found, what to do."""


class SpatialARError(Exception):
    """A failure that the user can act on.

    `code` is a stable slug for programs, `message` says what was expected and
    what was found, `hint` says what to do. They are for the user's eyes: they may
    hold the base name of a file the user named, and never go into models or
    manifests.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.code = code
        self.message = message
        self.hint = hint


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
