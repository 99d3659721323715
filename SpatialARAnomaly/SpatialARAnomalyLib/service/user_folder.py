"""The folder of this user's settings and models."""

import os
import sys
from pathlib import Path

APP_NAME = "spatial-ar-anomaly"
HOME_VARIABLE = "SPATIAL_AR_ANOMALY_HOME"
"""Environment variable that names another folder."""


def user_folder() -> Path:
    """Return the folder of the user's settings, which need not exist yet.

    Without `HOME_VARIABLE` it is the system's folder for settings (as `typer.get_app_dir`).
    """
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or os.path.expanduser("~")) / APP_NAME
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Application Support")) / APP_NAME
    return Path(os.environ.get("XDG_CONFIG_HOME", os.path.expanduser("~/.config"))) / APP_NAME


def models_folder() -> Path:
    """Return the folder in which the panel keeps models, which need not exist yet."""
    return user_folder() / "models"
