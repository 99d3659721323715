"""Which errors of the machine a user can act on, told in the user's words."""

from SpatialARAnomalyLib.engine.device import is_out_of_memory
from SpatialARAnomalyLib.engine.errors import DeviceError, SpatialARError


def as_user_error(error: BaseException) -> SpatialARError | None:
    """The error as one the user can act on, if it is one."""
    if isinstance(error, SpatialARError):
        return error
    if is_out_of_memory(error):
        return DeviceError("out-of-memory", "The device has too little free memory for this job.")
    return None


def missing_package(error: BaseException) -> SpatialARError | None:
    """The error that names the package of others which could not be imported, if that is it."""
    if getattr(error, "code", "") == "torch-missing":
        name: str | None = "torch"
    elif isinstance(error, ImportError):
        name = (error.name or "").split(".")[0] or None
    else:
        return None
    if name is None or name == __name__.split(".")[0]:
        return None
    return SpatialARError(
        "package-missing",
        f"The Python package {name!r} is needed; it is not installed, or cannot be loaded.",
    )


def internal_error(error: BaseException) -> SpatialARError:
    """What is told of an error that nobody foresaw."""
    return SpatialARError("internal", f"Internal error ({type(error).__name__}).")
