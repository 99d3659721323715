"""The license of the DINOv3 weights: shown and accepted once by every user, before any request.

The text lies beside this file, as Meta published it (github.com/facebookresearch/dinov3,
LICENSE.md): the agreement must come with the weights.
"""

import hashlib
import json
import time
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.files import read_json, replacing, unwritable
from SpatialARAnomalyLib.service.user_folder import user_folder

LICENSE = "DINOv3 License"

ADDRESS = "https://ai.meta.com/resources/models-and-libraries/dinov3-license"
"""Meta's page of the license."""


def license_file() -> Path:
    """Return the file with the whole text."""
    return Path(__file__).with_name("DINOv3-LICENSE.md")


def license_text() -> str:
    """Return the whole text, as Markdown."""
    return license_file().read_text(encoding="utf-8")


def is_accepted() -> bool:
    """Return whether this user accepted this version of the text."""
    try:
        known = read_json(_record())
        return bool(known[LICENSE]["sha256"] == _sha256())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def accept() -> None:
    """Record that this user read and accepted the text, and when.

    Raises:
        OutputError: `output-unwritable` where the user's folder cannot be written.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    record = {LICENSE: {"sha256": _sha256(), "accepted": now}}
    try:
        _record().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_record()) as partial:
            partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    except OSError as error:
        raise unwritable("The acceptance of the license cannot be recorded", error) from error


def require_accepted() -> None:
    """Raise `EncoderError` `license-not-accepted` unless the license was accepted."""
    if not is_accepted():
        raise EncoderError(
            "license-not-accepted",
            f"DINOv3 weights come under the {LICENSE}, which must be read and accepted once "
            "before anything is downloaded.",
        )


def _record() -> Path:
    return user_folder() / "licenses.json"


def _sha256() -> str:
    return hashlib.sha256(license_file().read_bytes().replace(b"\r\n", b"\n")).hexdigest()
