"""The folder of this user's settings and models."""

import os
import sys
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import OutputError

APP_NAME = "spatial-ar-anomaly"
HOME_VARIABLE = "SPATIAL_AR_ANOMALY_HOME"
"""Environment variable that names another folder."""


def user_folder() -> Path:
    """Return the folder of the user's settings, which need not exist yet.

    Without `HOME_VARIABLE` it is the system's folder for settings (as `typer.get_app_dir`).
    Raises `OutputError` `home-missing` as `home_folder` does.
    """
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home).expanduser() if home.startswith("~") else Path(home)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or home_folder()) / APP_NAME
    if sys.platform == "darwin":
        return home_folder() / "Library/Application Support" / APP_NAME
    return xdg_folder("XDG_CONFIG_HOME", ".config") / APP_NAME


def home_folder() -> Path:
    """Return the user's home; raises `OutputError` `home-missing` where there is none.

    In a container with a bare user id, neither a variable nor the system names one.
    """
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise OutputError(
            "home-missing",
            "A folder for settings is needed; this user has no home folder, and the variable "
            f"{HOME_VARIABLE} is not set.",
        )
    return Path(home)


def xdg_folder(variable: str, default: str) -> Path:
    """Return the folder that a variable of the XDG specification names, else that in the home.

    As it says, an empty or relative value is none.
    """
    value = os.environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else home_folder() / default


def models_folder() -> Path:
    """Return the folder in which the panel keeps models, which need not exist yet."""
    return user_folder() / "models"
