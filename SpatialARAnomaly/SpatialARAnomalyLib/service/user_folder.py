"""Where this user's settings and models lie; set SPATIAL_AR_ANOMALY_HOME to keep them elsewhere."""

import os
import sys
from pathlib import Path

APP_NAME = "spatial-ar-anomaly"
HOME_VARIABLE = "SPATIAL_AR_ANOMALY_HOME"


def user_folder() -> Path:
    """The folder of the user's settings, which need not exist yet.

    Without the variable it is where the system keeps settings, as
    `typer.get_app_dir` says.
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
    """Where the panel keeps models, which need not exist yet."""
    return user_folder() / "models"
