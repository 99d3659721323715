"""Errors in words a user can act on."""

import traceback

from slicer.i18n import tr as _

from ..engine.errors import SpatialARError


def asUserError(error: Exception) -> SpatialARError:
    """The error as one that says what to do; an unforeseen one also goes to Slicer's console."""
    if isinstance(error, SpatialARError):
        return error
    if isinstance(error, OSError):
        return SpatialARError(
            "exchange-failed",
            _("The volume could not be exchanged with the worker process ({reason}).").format(
                reason=error.strerror or type(error).__name__
            ),
            _("Free disk space in Slicer's temporary folder and try again."),
        )
    if isinstance(error, MemoryError):
        return SpatialARError(
            "out-of-memory",
            _("There is too little free memory for the result."),
            _("Close other programs and try again."),
        )
    traceback.print_exception(error)
    return SpatialARError(
        "internal",
        _("Internal error ({kind}).").format(kind=f"{type(error).__name__}: {error}"),
        _("Please report it."),
    )


def panelHint(error: SpatialARError) -> str:
    """What to do, in the panel's terms where the engine speaks of the command line."""
    allowMismatch = _(
        "Choose a model of such scans, or tick 'Search scans that are unlike the model's "
        "normal scans' under Advanced."
    )
    install = _("Open Set-up below, click Install…, then try again.")
    hints = {
        "model-modality": allowMismatch,
        "model-geometry": allowMismatch,
        "torch-missing": install,
        "package-missing": install,
        "encoder-software": install,
        "device-missing": _("Choose Automatic or CPU as Device under Advanced."),
        "out-of-memory": _("Close other programs, or choose CPU as Device under Advanced."),
        "output-exists": _("Choose another folder."),
        "encoder-not-local": _("Get it in the section Encoders."),
        "encoder-not-found": _("Get it, or add where it lies, in the section Encoders."),
        "checkpoint-damaged": _("Discard the unfinished training and train anew."),
        "checkpoint-other": _("Discard the unfinished training and train anew."),
    }
    return hints.get(error.code, error.hint)


def isMissingPackage(error: SpatialARError) -> bool:
    """Whether a package lacks: the section *Set-up* has the remedy."""
    return error.code in ("torch-missing", "package-missing", "encoder-software")


def inOneLine(error: SpatialARError) -> str:
    """What happened and what to do."""
    return f"{error.message} {panelHint(error)}".strip()
